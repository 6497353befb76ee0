"""The gRPC edge: a gateway with another front; nothing else imports gRPC or protobuf."""

__all__: list[str] = []
