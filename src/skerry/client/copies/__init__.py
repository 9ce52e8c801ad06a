"""Copies of files and trees between this machine and a sandbox: reading here, writing here, and the way between."""
