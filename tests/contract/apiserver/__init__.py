"""What a Kubernetes API server does, by its documentation. Every suite here runs on the embedded server and on a real one."""
