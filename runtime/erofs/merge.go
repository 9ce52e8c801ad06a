package erofs

import (
	"archive/tar"
	"encoding/base64"
	"fmt"
	"io"
	"strings"
)

// The names under which gVisor's overlay marks a directory that hides everything below it.
const (
	paxOpaque     = "SCHILY.xattr.trusted.overlay.opaque"
	paxOpaqueUser = "SCHILY.xattr.user.overlay.opaque"
	paxXattr      = "SCHILY.xattr."
)

// What a sandbox can be given at its start (proto/agent.md, and images/merge.py).
const (
	maxXattrs     = 256
	maxXattrBytes = 32 << 10
)

// CheckEnd refuses an archive that does not end as archives do. Reading it would show no difference between one that was
// cut off after a file and a whole one.
func CheckEnd(archive io.ReaderAt, size int64) error {
	var end [2 * 512]byte
	if size < int64(len(end)) {
		return fmt.Errorf("%w: an archive of %d bytes", ErrFormat, size)
	}
	if _, err := archive.ReadAt(end[:], size-int64(len(end))); err != nil {
		return err
	}
	if end != [len(end)]byte{} {
		return fmt.Errorf("%w: the archive is cut off after %d bytes", ErrFormat, size)
	}
	return nil
}

// Apply lays an archive of an overlay's upper layer over the tree, as gVisor writes it: names begin with "./", a deleted
// file is a character device 0:0, a directory that hides the one below carries an attribute. Other devices are left out:
// gVisor's EROFS reads every device number as 0:0, which in a lower layer says that the file was deleted. The bytes of regular files
// are written to `out` as they come. The archive is the guest's work: nothing of it is opened by name on this machine.
func (w *Writer) Apply(root *Node, archive io.Reader) error {
	reader := tar.NewReader(archive)
	for count := 0; ; count++ {
		header, err := reader.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrFormat, err)
		}
		if count >= maxNodes {
			return fmt.Errorf("%w: more than %d files", ErrFormat, maxNodes)
		}
		if err := w.applyEntry(root, header, reader); err != nil {
			return err
		}
	}
}

func (w *Writer) applyEntry(root *Node, header *tar.Header, body io.Reader) error {
	// A few bytes of such an entry stand for a file of any size. gVisor writes none.
	for key := range header.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return fmt.Errorf("%w: %q is stored as a sparse file", ErrFormat, header.Name)
		}
	}
	parts, err := split(header.Name)
	if err != nil {
		return err
	}
	if len(parts) == 0 {
		setMetadata(root, header)
		return w.noteXattrs(parts, header)
	}
	dir, err := root.directory(parts[:len(parts)-1])
	if err != nil {
		return err
	}
	name := parts[len(parts)-1]
	switch header.Typeflag {
	case tar.TypeDir:
		if err := w.noteXattrs(parts, header); err != nil {
			return err
		}
		return applyDir(dir, name, header)
	case tar.TypeLink:
		return w.applyLink(root, dir, parts, header)
	case tar.TypeChar, tar.TypeBlock:
		w.omit(dir, parts, header.Typeflag == tar.TypeBlock || header.Devmajor != 0 || header.Devminor != 0)
		return nil
	}
	node, err := w.newNode(header, body)
	if err != nil {
		return fmt.Errorf("%q: %w", header.Name, err)
	}
	if err := w.noteXattrs(parts, header); err != nil {
		return err
	}
	dir.children[name] = node
	return nil
}

func applyDir(dir *Node, name string, header *tar.Header) error {
	at := dir.children[name]
	if at == nil || !at.IsDir() || header.PAXRecords[paxOpaque] == "y" || header.PAXRecords[paxOpaqueUser] == "y" {
		at = newDir(0)
		dir.children[name] = at
	}
	setMetadata(at, header)
	return nil
}

// omit sees to it that the image has no file of this name: it was deleted, or is a device, which the caller is told.
func (w *Writer) omit(dir *Node, parts []string, device bool) {
	path := strings.Join(parts, "/")
	w.omitted[path] = device
	delete(dir.children, parts[len(parts)-1])
	if device {
		w.LeftOut = append(w.LeftOut, "/"+path)
	}
}

// applyLink gives a file one more name. gVisor's overlay deletes many files with one device 0:0 of many names.
func (w *Writer) applyLink(root, dir *Node, parts []string, header *tar.Header) error {
	linked, err := split(header.Linkname)
	if err != nil {
		return err
	}
	if device, found := w.omitted[strings.Join(linked, "/")]; found {
		w.omit(dir, parts, device)
		return nil
	}
	target := root.lookup(linked)
	if target == nil || target.IsDir() {
		return fmt.Errorf("%w: %q links to %q, which is not there", ErrFormat, header.Name, header.Linkname)
	}
	dir.children[parts[len(parts)-1]] = target
	return nil
}

func (w *Writer) newNode(header *tar.Header, body io.Reader) (*Node, error) {
	node := &Node{}
	switch header.Typeflag {
	case tar.TypeReg:
		node.Mode = modeRegular
		node.Size = header.Size
		start, err := w.append(body, header.Size)
		if err != nil {
			return nil, err
		}
		node.content = content{start: start}
	case tar.TypeSymlink:
		if len(header.Linkname) > maxTarget {
			return nil, fmt.Errorf("%w: a link target of %d bytes", ErrFormat, len(header.Linkname))
		}
		node.Mode, node.Target = modeLink, header.Linkname
	case tar.TypeFifo:
		node.Mode = modeFifo
	default:
		return nil, fmt.Errorf("%w: entry of type %q", ErrFormat, header.Typeflag)
	}
	setMetadata(node, header)
	return node, nil
}

func setMetadata(node *Node, header *tar.Header) {
	node.Mode = node.Mode&modeType | uint32(header.Mode)&0o7777
	node.UID, node.GID = uint32(header.Uid), uint32(header.Gid)
	node.Mtime, node.Nsec = header.ModTime.Unix(), uint32(header.ModTime.Nanosecond())
}

// noteXattrs remembers the attributes of an entry, which the image itself cannot hold. gVisor writes access control lists
// in base64, other values as they are; those that are not UTF-8 it leaves out, since an archive cannot hold them. It stops
// at the first one too many: a guest can write any number.
func (w *Writer) noteXattrs(parts []string, header *tar.Header) error {
	for key, value := range header.PAXRecords {
		name, found := strings.CutPrefix(key, paxXattr)
		if !found || strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.") {
			continue
		}
		if name == "" {
			return fmt.Errorf("%w: an attribute of %q without a name", ErrFormat, header.Name)
		}
		content := []byte(value)
		if strings.HasPrefix(name, "system.posix_acl_") {
			var err error
			if content, err = base64.RawStdEncoding.DecodeString(value); err != nil {
				return fmt.Errorf("%w: %s of %q: %w", ErrFormat, name, header.Name, err)
			}
		}
		one := Xattr{Path: []byte("/" + strings.Join(parts, "/")), Name: name, Value: content}
		w.xattrBytes += len(one.Path) + len(one.Name) + len(one.Value)
		if len(w.Xattrs) == maxXattrs || w.xattrBytes > maxXattrBytes {
			return fmt.Errorf("%w: the step left too many extended attributes in the image, such as %.100q of %.200q; an image "+
				"holds at most %d of %d bytes together: remove them in the step (`setfattr -x`)",
				ErrFormat, name, one.Path, maxXattrs, maxXattrBytes)
		}
		w.Xattrs = append(w.Xattrs, one)
	}
	return nil
}
