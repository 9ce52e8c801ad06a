package erofs

import (
	"fmt"
	"sort"
	"strings"
)

// Node is a file of any kind. Two names of one file (hard links) share a Node.
type Node struct {
	Mode     uint32
	UID, GID uint32
	Mtime    int64
	Nsec     uint32
	Rdev     uint32
	Target   string // of a symbolic link
	Size     int64  // of a regular file

	content  content
	children map[string]*Node // of a directory

	// Set while the image is laid out.
	nid    uint64
	links  uint32
	block  int64
	placed bool
}

// content is where the bytes of a regular file are: in an image that was read, or already written to the new one.
type content struct {
	from   *Image // nil: at block `start` of the image being written
	offset int64
	start  int64
}

func newDir(mode uint32) *Node {
	return &Node{Mode: modeDir | mode, children: map[string]*Node{}}
}

// IsDir tells whether the node is a directory.
func (n *Node) IsDir() bool { return n.Mode&modeType == modeDir }

func (n *Node) isRegular() bool { return n.Mode&modeType == modeRegular }

// names returns the names in a directory in the order of their bytes.
func (n *Node) names() []string {
	names := make([]string, 0, len(n.children))
	for name := range n.children {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// split returns the parts of a path inside an archive, without "." parts; ".." and over-long names are refused.
func split(path string) ([]string, error) {
	var parts []string
	for _, part := range strings.Split(path, "/") {
		switch {
		case part == "" || part == ".":
		case part == "..":
			return nil, fmt.Errorf("%w: path %q leads out of its tree", ErrFormat, path)
		case len(part) > maxName:
			return nil, fmt.Errorf("%w: a name in %.80q is longer than %d bytes", ErrFormat, path, maxName)
		default:
			parts = append(parts, part)
		}
	}
	if len(parts) > maxDepth {
		return nil, fmt.Errorf("%w: a path of %d parts, at most %d are allowed", ErrFormat, len(parts), maxDepth)
	}
	return parts, nil
}

// directory returns the directory at parts below n, which must be there.
func (n *Node) directory(parts []string) (*Node, error) {
	at := n
	for i, part := range parts {
		next := at.children[part]
		if next == nil || !next.IsDir() {
			return nil, fmt.Errorf("%w: %q is no directory", ErrFormat, strings.Join(parts[:i+1], "/"))
		}
		at = next
	}
	return at, nil
}

// lookup returns the node at parts below n, or nil.
func (n *Node) lookup(parts []string) *Node {
	if len(parts) == 0 {
		return n
	}
	dir, err := n.directory(parts[:len(parts)-1])
	if err != nil {
		return nil
	}
	return dir.children[parts[len(parts)-1]]
}

// Remove takes the path out of the tree, if it is there.
func (n *Node) Remove(path string) error {
	parts, err := split(path)
	if err != nil || len(parts) == 0 {
		return err
	}
	if dir, err := n.directory(parts[:len(parts)-1]); err == nil {
		delete(dir.children, parts[len(parts)-1])
	}
	return nil
}

// Has tells whether the path is in the tree.
func (n *Node) Has(path string) bool {
	parts, err := split(path)
	return err == nil && n.lookup(parts) != nil
}
