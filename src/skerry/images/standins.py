"""A package that stands for others: where a program declares what it never uses, this is there instead.

It provides their names and holds nothing, as Debian's equivs makes them. Who wants the real ones installs them: apt
puts them beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

# Debian's npm needs postcss-selector-parser, which is part of node-css-loader. That depends on webpack, and webpack on
# eslint, babel, terser and 200 packages more. npm loads none of them: 115 MiB of the image.
PROVIDED: Final = ("webpack",)

NAME: Final = "skerry-stand-ins"


def script(provided: Sequence[str] = PROVIDED) -> str:
    """Return the shell script that installs the package in a new root, before the packages that would need others."""
    return f"""
set -eu
install -d -m 755 /tmp/{NAME}/DEBIAN
cat > /tmp/{NAME}/DEBIAN/control <<'END'
Package: {NAME}
Version: 1
Architecture: all
Maintainer: skerry
Provides: {", ".join(provided)}
Description: stands for packages that others declare and never use
 It holds nothing. Installing one of the packages that it provides puts the real one beside it.
END
dpkg-deb --root-owner-group --build /tmp/{NAME} /tmp/{NAME}.deb
dpkg --install /tmp/{NAME}.deb
rm -r /tmp/{NAME} /tmp/{NAME}.deb
"""
