"""The environment variables by which programs find package indexes, proxies and certificates.

One table for everything that deals with them: clients send them, the network opens where they lead, the node sets them
in sandboxes, and sudo in the default image hands them on.
"""

from __future__ import annotations

from typing import Final

INDEXES: Final = (
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "UV_DEFAULT_INDEX",
    "UV_INDEX",
    "UV_INDEX_URL",
    "UV_EXTRA_INDEX_URL",
    "NPM_CONFIG_REGISTRY",
    "npm_config_registry",
    "GOPROXY",
)
# How far to trust an index, and what to ask about it.
INDEX_TRUST: Final = ("PIP_TRUSTED_HOST", "UV_INSECURE_HOST", "GOSUMDB")
PROXIES: Final = (
    "http_proxy",
    "https_proxy",
    "ftp_proxy",
    "all_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "ALL_PROXY",
    "PIP_PROXY",
)
NO_PROXY: Final = ("no_proxy", "NO_PROXY")
SENT: Final = INDEXES + INDEX_TRUST + PROXIES + NO_PROXY
"""What of a client's machine goes to its sandboxes, as a value without credentials."""

# These may name folders too, or belong to one program's own way to its index: they lead somewhere, and are not sent.
_NOT_SENT: Final = (
    "PIP_FIND_LINKS",
    "UV_FIND_LINKS",
    "NPM_CONFIG_PROXY",
    "NPM_CONFIG_HTTPS_PROXY",
    "YARN_NPM_REGISTRY_SERVER",
    "CARGO_HTTP_PROXY",
)
_LEADING: Final = frozenset(name.upper() for name in INDEXES + PROXIES + _NOT_SENT)

CERTIFICATES: Final = (
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "CURL_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO",
    "CARGO_HTTP_CAINFO",
)
"""Where programs on a client's machine are told to find certificates: OpenSSL and Go, requests, pip, curl, Node.js,
git, Cargo."""
SANDBOX_CERTIFICATES: Final = (*CERTIFICATES, "AWS_CA_BUNDLE")
"""What says the same to programs in a sandbox."""
CERTIFICATE_FOLDER: Final = "SSL_CERT_DIR"
"""A folder of a client's machine, which no sandbox has."""

_OPTIONS_OF_TOOLS: Final = ("PIP_", "UV_")
_SUDO_KEEPS: Final = (*SENT, *SANDBOX_CERTIFICATES, CERTIFICATE_FOLDER)
SUDO_KEEPS: Final = (
    *(f"{prefix}*" for prefix in _OPTIONS_OF_TOOLS),
    *(name for name in _SUDO_KEEPS if not name.startswith(_OPTIONS_OF_TOOLS)),
)
"""Names and patterns of sudo's `env_keep`: all of the above, and every option of pip and uv."""


def leads_somewhere(name: str) -> bool:
    """Tell whether a variable names indexes or proxies by their addresses, in capitals or not."""
    return name.upper() in _LEADING
