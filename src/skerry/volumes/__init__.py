"""Volumes on this machine: an ext4 file for each, what is read and written in it from outside, its commits."""
