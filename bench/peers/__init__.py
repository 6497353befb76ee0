"""The servers that ours is compared with: how each is installed, started and asked.

Each lives in a virtual environment of its own (``python -m bench.peers.install``), so modules
here that import a peer run only there.
"""
