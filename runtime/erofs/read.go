package erofs

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
)

// Image is an EROFS image that can be read.
type Image struct {
	file     *os.File
	size     int64
	metaAt   int64
	nodes    map[uint64]*Node // by inode number, so that hard links come out as one Node
	rootNid  uint64
	built    int64 // the time of every compact inode
	builtNs  uint32
	metadata map[int64][]byte // blocks of metadata read so far
}

// Open reads the superblock of an image.
func Open(path string) (*Image, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	image, err := Read(file)
	if err != nil {
		file.Close()
		return nil, err
	}
	return image, nil
}

// Read reads the superblock of an image in an open file, which is then the image's.
func Read(file *os.File) (*Image, error) {
	image := &Image{file: file, nodes: map[uint64]*Node{}, metadata: map[int64][]byte{}}
	if err := image.readSuper(); err != nil {
		return nil, fmt.Errorf("%s: %w", file.Name(), err)
	}
	return image, nil
}

// Close releases the file.
func (im *Image) Close() error { return im.file.Close() }

func (im *Image) readSuper() error {
	info, err := im.file.Stat()
	if err != nil {
		return err
	}
	im.size = info.Size()
	var super [superSize]byte
	if _, err := im.file.ReadAt(super[:], superStart); err != nil {
		return fmt.Errorf("%w: no superblock: %w", ErrFormat, err)
	}
	little := binary.LittleEndian
	switch {
	case little.Uint32(super[0:]) != magic:
		return fmt.Errorf("%w: not an EROFS image", ErrFormat)
	case super[12] != 12:
		return fmt.Errorf("%w: blocks of 2^%d bytes, only 2^12 are read", ErrFormat, super[12])
	case little.Uint32(super[80:]) != 0:
		return fmt.Errorf("%w: incompatible features %#x", ErrFormat, little.Uint32(super[80:]))
	}
	im.rootNid = uint64(little.Uint16(super[14:]))
	im.metaAt = int64(little.Uint32(super[40:])) * blockSize
	im.built, im.builtNs = int64(little.Uint64(super[24:])), little.Uint32(super[32:])
	return nil
}

// Tree returns the whole tree of the image.
func (im *Image) Tree() (*Node, error) {
	root, err := im.node(im.rootNid)
	if err != nil {
		return nil, err
	}
	if !root.IsDir() {
		return nil, fmt.Errorf("%w: the root is no directory", ErrFormat)
	}
	return root, nil
}

// at returns n bytes of the image, which lie in one block.
func (im *Image) at(offset int64, n int) ([]byte, error) {
	index := offset / blockSize
	block, known := im.metadata[index]
	if !known {
		if index*blockSize >= im.size {
			return nil, fmt.Errorf("%w: offset %d is beyond the image", ErrFormat, offset)
		}
		block = make([]byte, blockSize)
		if _, err := im.file.ReadAt(block, index*blockSize); err != nil && err != io.EOF {
			return nil, err
		}
		im.metadata[index] = block
	}
	start := int(offset % blockSize)
	if start+n > blockSize {
		return nil, fmt.Errorf("%w: an inode crosses a block at offset %d", ErrFormat, offset)
	}
	return block[start : start+n], nil
}

// node returns the node with this inode number and, for a directory, everything below it.
func (im *Image) node(nid uint64) (*Node, error) {
	if known := im.nodes[nid]; known != nil {
		if known.IsDir() {
			return nil, fmt.Errorf("%w: directory %d has two names", ErrFormat, nid)
		}
		return known, nil
	}
	if len(im.nodes) >= maxNodes {
		return nil, fmt.Errorf("%w: more than %d files", ErrFormat, maxNodes)
	}
	offset := im.metaAt + int64(nid)*slot
	head, err := im.at(offset, compactInode)
	if err != nil {
		return nil, err
	}
	node, data, err := im.parseInode(head, offset)
	if err != nil {
		return nil, fmt.Errorf("inode %d: %w", nid, err)
	}
	im.nodes[nid] = node
	return node, im.fill(node, data)
}

// span says where the data of an inode are: whole blocks at `start`, and a tail right behind the inode.
type span struct {
	start, size int64
	tailAt      int64 // -1: none
}

func (im *Image) parseInode(head []byte, offset int64) (*Node, span, error) {
	little := binary.LittleEndian
	format := little.Uint16(head[0:])
	node := &Node{Mode: uint32(little.Uint16(head[4:]))}
	var size int64
	var word uint32
	length := int64(compactInode)
	if format&1 == 0 {
		size, word = int64(little.Uint32(head[8:])), little.Uint32(head[16:])
		node.UID, node.GID = uint32(little.Uint16(head[24:])), uint32(little.Uint16(head[26:]))
		node.Mtime, node.Nsec = im.built, im.builtNs
	} else {
		long, err := im.at(offset, extendedInode)
		if err != nil {
			return nil, span{}, err
		}
		length = extendedInode
		size, word = int64(little.Uint64(long[8:])), little.Uint32(long[16:])
		node.UID, node.GID = little.Uint32(long[24:]), little.Uint32(long[28:])
		node.Mtime, node.Nsec = int64(little.Uint64(long[32:])), little.Uint32(long[40:])
	}
	if little.Uint16(head[2:]) != 0 {
		return nil, span{}, fmt.Errorf("%w: extended attributes", ErrFormat)
	}
	layout := format >> 1 & 7
	if layout != layoutPlain && layout != layoutInline {
		return nil, span{}, fmt.Errorf("%w: data layout %d", ErrFormat, layout)
	}
	if size < 0 || size > 1<<44 {
		return nil, span{}, fmt.Errorf("%w: size %d", ErrFormat, size)
	}
	node.Rdev = word
	data := span{start: int64(word) * blockSize, size: size, tailAt: -1}
	if layout == layoutInline && size%blockSize != 0 {
		data.tailAt = offset + length
	}
	return node, data, nil
}

// fill reads what belongs to a node besides its inode.
func (im *Image) fill(node *Node, data span) error {
	switch node.Mode & modeType {
	case modeRegular:
		if data.tailAt >= 0 {
			return fmt.Errorf("%w: a regular file with inline data", ErrFormat)
		}
		if data.start+data.size > im.size {
			return fmt.Errorf("%w: a file reaches beyond the image", ErrFormat)
		}
		node.Size = data.size
		node.content = content{from: im, offset: data.start}
		node.Rdev = 0
	case modeLink:
		target, err := im.small(data, maxTarget)
		if err != nil {
			return err
		}
		node.Target, node.Rdev = string(target), 0
	case modeDir:
		node.Rdev = 0
		return im.fillDir(node, data)
	}
	return nil
}

// small returns the data of a link or directory.
func (im *Image) small(data span, most int64) ([]byte, error) {
	if data.size > most {
		return nil, fmt.Errorf("%w: %d bytes where at most %d are allowed", ErrFormat, data.size, most)
	}
	out := make([]byte, data.size)
	whole := data.size
	if data.tailAt >= 0 {
		whole -= data.size % blockSize
		tail, err := im.at(data.tailAt, int(data.size%blockSize))
		if err != nil {
			return nil, err
		}
		copy(out[whole:], tail)
	}
	if _, err := im.file.ReadAt(out[:whole], data.start); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return out, nil
}

func (im *Image) fillDir(node *Node, data span) error {
	node.children = map[string]*Node{}
	raw, err := im.small(data, 1<<30)
	if err != nil {
		return err
	}
	for start := 0; start < len(raw); start += blockSize {
		if err := im.fillBlock(node, raw[start:min(start+blockSize, len(raw))]); err != nil {
			return err
		}
	}
	return nil
}

func (im *Image) fillBlock(node *Node, block []byte) error {
	little := binary.LittleEndian
	if len(block) < direntSize {
		return fmt.Errorf("%w: half an entry in a directory", ErrFormat)
	}
	first := int(little.Uint16(block[8:]))
	if first < direntSize || first%direntSize != 0 || first > len(block) {
		return fmt.Errorf("%w: names at %d in a directory", ErrFormat, first)
	}
	count := first / direntSize
	for i := range count {
		entry := block[i*direntSize:]
		from, to := int(little.Uint16(entry[8:])), len(block)
		if i+1 < count {
			to = int(little.Uint16(entry[direntSize+8:]))
		}
		if from < first || to < from || to > len(block) {
			return fmt.Errorf("%w: a name out of its block", ErrFormat)
		}
		name := string(bytes.TrimRight(block[from:to], "\x00"))
		if name == "." || name == ".." {
			continue
		}
		if name == "" || len(name) > maxName || bytes.ContainsRune([]byte(name), '/') {
			return fmt.Errorf("%w: the name %q", ErrFormat, name)
		}
		child, err := im.node(little.Uint64(entry))
		if err != nil {
			return err
		}
		node.children[name] = child
	}
	return nil
}
