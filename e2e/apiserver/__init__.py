"""An embedded Kubernetes API server: real semantics over HTTP, state in memory. See `server.EmbeddedServer`."""
