"""Images: the base that we build, the steps on top of it, and the files they are kept in."""
