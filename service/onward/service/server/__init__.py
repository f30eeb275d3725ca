"""Server processes: the HTTP server, its workers and the embedded session store."""
