# An S3 server for tests, which keeps its objects in memory.
ARG PYTHON_IMAGE=python:3.11-slim
FROM ${PYTHON_IMAGE}
RUN pip install --no-cache-dir --quiet "moto[s3]>=5.2,<6" "flask>=3.1,<4" "flask-cors>=6,<7"
USER nobody
EXPOSE 5000
ENTRYPOINT ["moto_server", "--host", "0.0.0.0", "--port", "5000"]
