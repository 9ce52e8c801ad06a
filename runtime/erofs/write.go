package erofs

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"sort"
)

// Xattr is an extended attribute that travels beside an image, since gVisor's EROFS refuses inodes that have one.
type Xattr struct {
	Path  []byte `json:"path"` // in JSON base64, as the value: names of files need not be text
	Name  string `json:"name"`
	Value []byte `json:"value"`
}

// Writer makes an image: first the data of files, as they come, then the metadata, last the superblock.
type Writer struct {
	Xattrs  []Xattr
	LeftOut []string // devices, which an image cannot hold
	Most    int64    // bytes that the image may have; 0 for any number

	xattrBytes int
	omitted    map[string]bool // paths in the archive that are no files of the image; true for a device, false for a deletion

	out    *os.File
	end    int64 // where the next data go, a multiple of the block size
	metaAt int64
	order  []*Node // in the order of their inodes
	inodes uint64
}

// NewWriter begins an image in an empty file.
func NewWriter(out *os.File) *Writer {
	return &Writer{out: out, end: blockSize, omitted: map[string]bool{}}
}

// append writes the bytes of one regular file and returns their first block.
func (w *Writer) append(body io.Reader, size int64) (int64, error) {
	if size == 0 {
		return 0, nil
	}
	start := w.end
	if err := w.checkEnd(start + blocks(size)*blockSize); err != nil {
		return 0, err
	}
	var err error
	if file, ok := body.(*os.File); ok {
		err = copyExtents(w.out, start, file, size)
	} else {
		err = copySparse(w.out, start, body, size)
	}
	if err != nil {
		return 0, err
	}
	w.end = start + blocks(size)*blockSize
	return start / blockSize, nil
}

// checkEnd refuses an image that would end at a byte beyond what it may have.
func (w *Writer) checkEnd(end int64) error {
	if end < 0 || end/blockSize > 1<<32-1 {
		return fmt.Errorf("%w: an image of more than 16 TiB", ErrFormat)
	}
	if w.Most > 0 && end > w.Most {
		return fmt.Errorf("%w: an image of more than %d bytes", ErrFormat, w.Most)
	}
	return nil
}

// Finish writes the tree and makes the image complete.
func (w *Writer) Finish(root *Node) error {
	if err := w.place(root); err != nil {
		return err
	}
	w.metaAt = w.end
	length, err := w.layOut(root)
	if err != nil {
		return err
	}
	metadata := make([]byte, length)
	w.encode(root, root, metadata)
	if _, err := w.out.WriteAt(metadata, w.metaAt); err != nil {
		return err
	}
	total := w.metaAt + length
	if err := w.writeSuper(root, total); err != nil {
		return err
	}
	return w.out.Truncate(total)
}

// place copies the data of files that are still in the image they were read from.
func (w *Writer) place(node *Node) error {
	for _, name := range node.names() {
		child := node.children[name]
		if child.IsDir() {
			if err := w.place(child); err != nil {
				return err
			}
			continue
		}
		child.links++
		if !child.isRegular() || child.placed {
			continue
		}
		child.placed = true
		child.block = child.content.start
		if from := child.content.from; from != nil {
			if _, err := from.file.Seek(child.content.offset, io.SeekStart); err != nil {
				return err
			}
			start, err := w.append(from.file, child.Size)
			if err != nil {
				return fmt.Errorf("%q: %w", name, err)
			}
			child.block = start
		}
	}
	return nil
}

// layOut gives every node its place in the metadata and returns the metadata's length, a multiple of the block size.
func (w *Writer) layOut(root *Node) (int64, error) {
	at := int64(extendedInode) // inode 0 stays free, so that 0 means "not placed"
	var place func(node *Node)
	place = func(node *Node) {
		tail := node.tail()
		need := int64(extendedInode + tail)
		// An inode and the tail behind it lie in one block (erofs_fs.h).
		if left := blockSize - at%blockSize; left < need {
			at += left
		}
		node.nid = uint64(at / slot)
		node.placed = true
		w.inodes++
		at += (need + slot - 1) / slot * slot
		if node.IsDir() {
			node.links = 2
			for _, name := range node.names() {
				if child := node.children[name]; child.IsDir() {
					node.links++
				}
			}
		}
	}
	place(root) // first, since the superblock holds only 16 bits of its number
	var walk func(dir *Node)
	walk = func(dir *Node) {
		for _, name := range dir.names() {
			child := dir.children[name]
			if child.nid == 0 {
				place(child)
				if child.IsDir() {
					walk(child)
				}
			}
		}
	}
	walk(root)
	at = blocks(at) * blockSize
	var blocksOf func(dir *Node)
	blocksOf = func(dir *Node) {
		if whole := dir.direntBytes() - int64(dir.tail()); whole > 0 {
			dir.block = (w.metaAt + at) / blockSize
			at += blocks(whole) * blockSize
		}
		for _, name := range dir.names() {
			child := dir.children[name]
			switch {
			case child.IsDir():
				blocksOf(child)
			case child.Mode&modeType == modeLink && child.tail() == 0 && child.block == 0:
				child.block = (w.metaAt + at) / blockSize
				at += blockSize
			}
		}
	}
	blocksOf(root)
	return at, w.checkEnd(w.metaAt + at)
}

// tail returns how many bytes of the node's data stand right behind its inode.
func (n *Node) tail() int {
	var size int64
	switch n.Mode & modeType {
	case modeLink:
		size = int64(len(n.Target))
	case modeDir:
		size = n.direntBytes() % blockSize
	default:
		return 0
	}
	if size > blockSize-extendedInode {
		return 0
	}
	return int(size)
}

// dirents returns the entries of a directory in the order of their names, cut into blocks.
func (n *Node) dirents() [][]string {
	names := append(n.names(), ".", "..")
	sort.Strings(names)
	var out [][]string
	used := 0
	for _, name := range names {
		need := direntSize + len(name)
		if len(out) == 0 || used+need > blockSize {
			out = append(out, nil)
			used = 0
		}
		out[len(out)-1] = append(out[len(out)-1], name)
		used += need
	}
	return out
}

// direntBytes returns the size of a directory: whole blocks, and the used part of the last one.
func (n *Node) direntBytes() int64 {
	all := n.dirents()
	last := 0
	for _, name := range all[len(all)-1] {
		last += direntSize + len(name)
	}
	return int64(len(all)-1)*blockSize + int64(last)
}

// encode writes the inodes and directories of the tree into the metadata.
func (w *Writer) encode(node, parent *Node, metadata []byte) {
	w.encodeInode(node, metadata)
	switch node.Mode & modeType {
	case modeLink:
		w.data(node, []byte(node.Target), metadata)
	case modeDir:
		w.data(node, node.encodeDirents(parent), metadata)
		for _, name := range node.names() {
			w.encode(node.children[name], node, metadata)
		}
	}
}

// data writes the data of a link or a directory: whole blocks where layOut put them, the tail behind the inode.
func (w *Writer) data(node *Node, raw, metadata []byte) {
	whole := len(raw) - node.tail()
	if whole > 0 {
		copy(metadata[node.block*blockSize-w.metaAt:], raw[:whole])
	}
	copy(metadata[node.nid*slot+extendedInode:], raw[whole:])
}

func (w *Writer) encodeInode(node *Node, metadata []byte) {
	little := binary.LittleEndian
	inode := metadata[node.nid*slot:][:extendedInode]
	size, word, layout := node.Size, uint32(node.block), uint16(layoutPlain)
	switch node.Mode & modeType {
	case modeLink:
		size = int64(len(node.Target))
	case modeDir:
		size = node.direntBytes()
	case modeChar, modeBlock:
		word = node.Rdev
	}
	if node.tail() > 0 {
		layout = layoutInline
	}
	little.PutUint16(inode[0:], 1|layout<<1)
	little.PutUint16(inode[4:], uint16(node.Mode))
	little.PutUint64(inode[8:], uint64(size))
	little.PutUint32(inode[16:], word)
	little.PutUint32(inode[20:], uint32(node.nid))
	little.PutUint32(inode[24:], node.UID)
	little.PutUint32(inode[28:], node.GID)
	little.PutUint64(inode[32:], uint64(node.Mtime))
	little.PutUint32(inode[40:], node.Nsec)
	little.PutUint32(inode[44:], node.links)
}

func (n *Node) encodeDirents(parent *Node) []byte {
	little := binary.LittleEndian
	out := make([]byte, n.direntBytes())
	for index, names := range n.dirents() {
		block := out[index*blockSize:]
		nameAt := direntSize * len(names)
		for i, name := range names {
			child := n.children[name]
			switch name {
			case ".":
				child = n
			case "..":
				child = parent
			}
			entry := block[i*direntSize:]
			little.PutUint64(entry[0:], child.nid)
			little.PutUint16(entry[8:], uint16(nameAt))
			entry[10] = direntType(child.Mode)
			nameAt += copy(block[nameAt:], name)
		}
	}
	return out
}

func (w *Writer) writeSuper(root *Node, total int64) error {
	little := binary.LittleEndian
	super := make([]byte, superSize)
	little.PutUint32(super[0:], magic)
	super[12] = 12
	little.PutUint16(super[14:], uint16(root.nid))
	little.PutUint64(super[16:], w.inodes)
	little.PutUint32(super[36:], uint32(total/blockSize))
	little.PutUint32(super[40:], uint32(w.metaAt/blockSize))
	_, err := w.out.WriteAt(super, superStart)
	return err
}
