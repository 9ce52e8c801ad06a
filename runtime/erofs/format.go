// Package erofs reads and writes the plain form of EROFS images that skerry uses: blocks of 4 KiB, no compression, file
// data in blocks of its own, no extended attributes (gVisor refuses inodes that have one).
//
// The on-disk format is described in the Linux kernel, fs/erofs/erofs_fs.h.
package erofs

import "errors"

const (
	blockSize  = 4096
	superStart = 1024
	superSize  = 128
	magic      = 0xE0F5E1E2

	compactInode  = 32
	extendedInode = 64
	direntSize    = 12
	slot          = 32 // inode numbers count slots of 32 bytes from the start of the metadata

	layoutPlain  = 0
	layoutInline = 2

	maxName   = 255
	maxTarget = 4095
	maxNodes  = 8 << 20
	maxDepth  = 2048 // as deep as a path of 4 KiB can be
)

// Bits of st_mode.
const (
	modeType    = 0o170000
	modeSocket  = 0o140000
	modeLink    = 0o120000
	modeRegular = 0o100000
	modeBlock   = 0o060000
	modeDir     = 0o040000
	modeChar    = 0o020000
	modeFifo    = 0o010000
)

// ErrFormat says that an image or an archive is not what this package can read.
var ErrFormat = errors.New("unreadable")

func direntType(mode uint32) byte {
	switch mode & modeType {
	case modeRegular:
		return 1
	case modeDir:
		return 2
	case modeChar:
		return 3
	case modeBlock:
		return 4
	case modeFifo:
		return 5
	case modeSocket:
		return 6
	case modeLink:
		return 7
	}
	return 0
}

func blocks(bytes int64) int64 { return (bytes + blockSize - 1) / blockSize }
