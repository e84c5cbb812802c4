"""The node's durable memory as a port: what it gave out, holds back and still has to tell the API."""
