"""What a plan says, measured: a private server in several arrangements, under the same traffic."""

__all__: list[str] = []
