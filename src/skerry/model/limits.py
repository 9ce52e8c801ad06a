"""Every bound that a caller can run into, in one place. Sizes in bytes unless the name says otherwise."""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
STAT_BLOCK = 512  # what st_blocks counts, whatever the file system's own block is: stat(2)

# Sandboxes
LIFETIME_DEFAULT_S = 300.0
LIFETIME_MAX_S = 24 * 3600.0
IDLE_TIMEOUT_MAX_S = LIFETIME_MAX_S
CPU_REQUEST_DEFAULT = 0.125
CPU_LIMIT_DEFAULT = 2.0
CPU_MIN = 0.01
MEMORY_REQUEST_DEFAULT_MIB = 128
MEMORY_LIMIT_DEFAULT_MIB = 2048
MEMORY_MIN_MIB = 64
DISK_DEFAULT_MIB = 1024  # the writable layer over the image, in memory
TMP_DEFAULT_MIB = 512  # /tmp
SHM_DEFAULT_MIB = 64  # /dev/shm
PROCESSES_DEFAULT = 1024  # processes and threads at once in a sandbox
CONNECTIONS_MAX = 4096  # tracked network connections of a sandbox
NAME_CHARS = 64
TAGS_MAX = 32
TAG_KEY_CHARS = 63  # as Modal counts
TAG_VALUE_CHARS = 256
SECRETS_MAX = 10_000  # stored
SECRETS_OF_A_REQUEST = 64
SECRET_KEY_CHARS = 256

# Processes
ARGV_BYTES = 64 * KIB  # with a NUL each, as Modal counts
ENV_BYTES = 128 * KIB
PATH_BYTES = 4095  # PATH_MAX less the NUL
EXEC_TIMEOUT_MAX_S = LIFETIME_MAX_S
TERMINAL_ROWS = 24
TERMINAL_COLUMNS = 80
TERMINAL_SIDE_MAX = 65_535  # 16 bits, as the kernel counts
TERM_CHARS = 64

# Output
OUTPUT_PROCESS_BYTES = 1 * GIB
OUTPUT_SANDBOX_BYTES = 4 * GIB
OUTPUT_STILL_S = 0.3  # how long the output of an ended process may stand still before it is taken for all that comes
OUTPUT_ARRIVES_S = 2.0  # how long it may go on arriving: something in the background may still write
LOG_TAIL_LINES = 1_000_000
LOG_TAIL_BYTES = 16 * MIB  # in which the last lines are looked for

# Files
FILE_READ_BYTES = 5 * GIB
COPY_ENTRIES = 1_000_000  # of a tree that is copied out of a sandbox
COPY_BYTES = 64 * GIB

# Volumes
VOLUME_DEFAULT_BYTES = 10 * GIB
VOLUME_BYTES_PER_FILE = 16 * KIB  # so many bytes of a volume for each file that it may hold
VOLUMES_MAX = 1000
VOLUME_COMMITS_MAX = 100  # of one volume
VOLUME_COMMITS_BYTES_RATIO = 2  # all commits of a volume together hold at most so many times its size
SANDBOX_VOLUMES_MAX = 16

# Requests
REQUEST_BYTES = 4 * MIB
