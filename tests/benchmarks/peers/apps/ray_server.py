"""Ray Serve: one replica behind its HAProxy, in its high-throughput mode.

RAY_SERVE_THROUGHPUT_OPTIMIZED=1 and RAY_SERVE_ENABLE_HA_PROXY=1, HAProxy with one thread, access log off, usage
statistics and dashboard off; class Recommender:
    """One query -> its answer."""

    def __init__(self) -> None:
        self._model = Model.of_environment()
        self._redis = Redis.from_url(os.environ[REDIS_URL], decode_responses=True)

    async def __call__(self, request: Request) -> Response:
        query = orjson.loads(await request.body())
        pipeline = self._redis.pipeline(transaction=False)
        append(pipeline, "ray", query["session_id"], query["items"])
        *_, session = await pipeline.execute()
        return Response(orjson.dumps(self._model.answer(session, query["k"])), media_type="application/json")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 << 20, _temp_dir=folder)
        try:
            serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
            deployment = serve.deployment(
                num_replicas=1,
                max_ongoing_requests=64,
                ray_actor_options={"num_cpus": 1},
                logging_config=LoggingConfig(enable_access_log=False, log_level="WARNING"),
            )
            serve.run(deployment(Recommender).bind(), route_prefix="/recommendations")
            signal.pause()
        finally:
            ray.shutdown()
