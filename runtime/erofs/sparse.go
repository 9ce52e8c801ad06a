package erofs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
)

// From linux/fs.h, for lseek.
const (
	seekData = 3
	seekHole = 4
)

var zeros [blockSize]byte

// copySparse writes `size` bytes of a stream at an offset of a file that is empty there. Blocks of zeros become holes: a
// guest's sparse file costs it nothing, so it may cost nothing here.
func copySparse(out *os.File, at int64, body io.Reader, size int64) error {
	buffer := make([]byte, min(size, 1<<20))
	for left := size; left > 0; {
		part := buffer[:min(left, int64(len(buffer)))]
		read, err := io.ReadFull(body, part)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("%w: %d bytes where %d were announced", ErrFormat, size-left+int64(read), size)
		}
		if err != nil {
			return err
		}
		if err := writeSparse(out, at, part); err != nil {
			return err
		}
		at += int64(read)
		left -= int64(read)
	}
	return nil
}

// writeSparse writes the runs of blocks that are not zeros.
func writeSparse(out *os.File, at int64, part []byte) error {
	for len(part) > 0 {
		run, empty := runOf(part)
		if !empty {
			if _, err := out.WriteAt(part[:run], at); err != nil {
				return err
			}
		}
		at += int64(run)
		part = part[run:]
	}
	return nil
}

// runOf returns how many bytes at the front lie in blocks that are all of zeros, or all not.
func runOf(part []byte) (length int, empty bool) {
	isEmpty := func(at int) bool {
		block := part[at:min(at+blockSize, len(part))]
		return bytes.Equal(block, zeros[:len(block)])
	}
	empty = isEmpty(0)
	for length = blockSize; length < len(part) && isEmpty(length) == empty; {
		length += blockSize
	}
	return min(length, len(part)), empty
}

// copyExtents copies `size` bytes from where a file stands to an offset of another, holes as holes. Between files io.CopyN
// becomes copy_file_range, which costs no copy through this process, and on some file systems no disk.
func copyExtents(out *os.File, at int64, from *os.File, size int64) error {
	begin, err := from.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	info, err := from.Stat()
	if err != nil {
		return err
	}
	end := begin + size
	if info.Size() < end {
		return fmt.Errorf("%w: %d bytes where %d were announced", ErrFormat, max(0, info.Size()-begin), size)
	}
	for next := begin; next < end; {
		data, err := from.Seek(next, seekData)
		if errors.Is(err, syscall.ENXIO) || err == nil && data >= end {
			return nil // nothing but a hole
		}
		if err != nil {
			return err
		}
		hole, err := from.Seek(data, seekHole)
		if err != nil {
			return err
		}
		next = min(hole, end)
		if _, err := from.Seek(data, io.SeekStart); err != nil {
			return err
		}
		if _, err := out.Seek(at+data-begin, io.SeekStart); err != nil {
			return err
		}
		if _, err := io.CopyN(out, from, next-data); err != nil {
			return err
		}
	}
	return nil
}
