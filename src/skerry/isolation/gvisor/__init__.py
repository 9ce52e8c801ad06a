"""gVisor: an application kernel in user space stands between the sandbox and the machine's kernel."""

from skerry.isolation.gvisor.backend import GvisorBackend

__all__ = ["GvisorBackend"]
