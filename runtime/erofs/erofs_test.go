package erofs

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	gvisor "gvisor.dev/gvisor/pkg/erofs"
)

// baseImage packs a small tree with mkfs.erofs, as the project packs its base.
func baseImage(t *testing.T) string {
	t.Helper()
	tool, err := exec.LookPath("mkfs.erofs")
	if err != nil {
		t.Skip("mkfs.erofs is not installed; apt-get install erofs-utils")
	}
	root := t.TempDir()
	files := map[string]string{"etc/name": "base\n", "bin/tool": strings.Repeat("x", 9000), "gone/a": "a", "gone/b": "b", "hidden/old": "old"}
	for name, text := range files {
		path := filepath.Join(root, name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, []byte(text), 0o644))
	}
	must(t, os.Link(filepath.Join(root, "bin/tool"), filepath.Join(root, "bin/alias")))
	must(t, os.Link(filepath.Join(root, "bin/tool"), filepath.Join(root, "bin/other")))
	must(t, os.Symlink("../etc/name", filepath.Join(root, "bin/link")))
	image := filepath.Join(t.TempDir(), "base.erofs")
	out, err := exec.Command(tool, "-x-1", "-Enoinline_data", "-T0", image, root).CombinedOutput()
	if err != nil {
		t.Fatalf("mkfs.erofs: %v: %s", err, out)
	}
	return image
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

type entry struct {
	header tar.Header
	body   string
}

func archive(t *testing.T, entries ...entry) *bytes.Buffer {
	t.Helper()
	var out bytes.Buffer
	writer := tar.NewWriter(&out)
	for _, e := range entries {
		e.header.Size = int64(len(e.body))
		if e.header.Mode == 0 {
			e.header.Mode = 0o755
		}
		must(t, writer.WriteHeader(&e.header))
		_, err := writer.Write([]byte(e.body))
		must(t, err)
	}
	must(t, writer.Close())
	return &out
}

func merged(t *testing.T, base string, upper *bytes.Buffer, drop ...string) (*Image, *Node) {
	t.Helper()
	path, err := tryMerge(t, base, upper, drop...)
	must(t, err)
	image, err := Open(path)
	must(t, err)
	t.Cleanup(func() { image.Close() })
	root, err := image.Tree()
	must(t, err)
	return image, root
}

func tryMerge(t *testing.T, base string, upper *bytes.Buffer, drop ...string) (string, error) {
	t.Helper()
	image, err := Open(base)
	must(t, err)
	defer image.Close()
	root, err := image.Tree()
	must(t, err)
	path := filepath.Join(t.TempDir(), "out.erofs")
	out, err := os.Create(path)
	must(t, err)
	defer out.Close()
	writer := NewWriter(out)
	if err := writer.Apply(root, upper); err != nil {
		return "", err
	}
	for _, name := range drop {
		must(t, root.Remove(name))
	}
	return path, writer.Finish(root)
}

func text(t *testing.T, image *Image, root *Node, path string) string {
	t.Helper()
	parts, err := split(path)
	must(t, err)
	node := root.lookup(parts)
	if node == nil {
		t.Fatalf("%s is not in the image", path)
	}
	out := make([]byte, node.Size)
	_, err = image.file.ReadAt(out, node.content.offset)
	must(t, err)
	return string(out)
}

func there(root *Node, path string) bool {
	parts, _ := split(path)
	return root.lookup(parts) != nil
}

func TestALayerChangesAddsAndDeletes(t *testing.T) {
	upper := archive(t,
		entry{header: tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755}},
		entry{header: tar.Header{Name: "./etc/", Typeflag: tar.TypeDir, Mode: 0o750, Uid: 7, Gid: 8}},
		entry{header: tar.Header{Name: "./etc/name", Typeflag: tar.TypeReg, Mode: 0o4711, Uid: 70000}, body: "upper\n"},
		entry{header: tar.Header{Name: "./gone", Typeflag: tar.TypeChar}},
		entry{header: tar.Header{Name: "./bin/tool", Typeflag: tar.TypeLink, Linkname: "./gone"}},
		entry{header: tar.Header{Name: "./hidden/", Typeflag: tar.TypeDir, PAXRecords: map[string]string{paxOpaque: "y"}}},
		entry{header: tar.Header{Name: "./hidden/new", Typeflag: tar.TypeReg}, body: "new"},
		entry{header: tar.Header{Name: "./hidden/hard", Typeflag: tar.TypeLink, Linkname: "./hidden/new"}},
		entry{header: tar.Header{Name: "./fifo", Typeflag: tar.TypeFifo}},
	)
	image, root := merged(t, baseImage(t), upper, "/bin/link")
	if got := text(t, image, root, "etc/name"); got != "upper\n" {
		t.Errorf("etc/name is %q", got)
	}
	if got := text(t, image, root, "bin/alias"); got != strings.Repeat("x", 9000) {
		t.Errorf("bin/alias was lost: %d bytes", len(got))
	}
	name := root.children["etc"].children["name"]
	if name.Mode != modeRegular|0o4711 || name.UID != 70000 {
		t.Errorf("etc/name has mode %o and owner %d", name.Mode, name.UID)
	}
	if etc := root.children["etc"]; etc.Mode != modeDir|0o750 || etc.UID != 7 || etc.GID != 8 {
		t.Errorf("etc has mode %o, owner %d:%d", etc.Mode, etc.UID, etc.GID)
	}
	for path, want := range map[string]bool{"gone": false, "hidden/old": false, "hidden/new": true, "bin/link": false, "fifo": true, "bin/alias": true, "bin/tool": false} {
		if there(root, path) != want {
			t.Errorf("%s: there is %v", path, !want)
		}
	}
	if root.children["bin"].children["alias"] != root.children["bin"].children["other"] {
		t.Error("a hard link of the base became a copy")
	}
	if root.children["hidden"].children["new"] != root.children["hidden"].children["hard"] {
		t.Error("a hard link of the layer became a copy")
	}
}

func TestGvisorAndFsckReadAManyFiledImage(t *testing.T) {
	entries := []entry{{header: tar.Header{Name: "./many/", Typeflag: tar.TypeDir}}}
	for i := range 3000 {
		name := fmt.Sprintf("./many/%s-%04d", strings.Repeat("n", i%200), i)
		entries = append(entries, entry{header: tar.Header{Name: name, Typeflag: tar.TypeReg}, body: fmt.Sprint(i)})
	}
	entries = append(entries, entry{header: tar.Header{Name: "./long", Typeflag: tar.TypeSymlink, Linkname: strings.Repeat("t", maxTarget)}})
	path, err := tryMerge(t, baseImage(t), archive(t, entries...))
	must(t, err)
	out, err := exec.Command("fsck.erofs", path).CombinedOutput()
	if err != nil {
		t.Errorf("fsck.erofs: %v: %s", err, out)
	}
	file, err := os.Open(path)
	must(t, err)
	image, err := gvisor.OpenImage(file)
	must(t, err)
	defer image.Close()
	root, err := image.Inode(image.RootNid())
	must(t, err)
	count := 0
	many, err := root.Lookup("many")
	must(t, err)
	dir, err := image.Inode(many)
	must(t, err)
	must(t, dir.IterDirents(func(string, uint8, uint64) error { count++; return nil }))
	if count != 3002 {
		t.Errorf("gVisor sees %d entries, want 3002", count)
	}
}

func TestAnArchiveThatLeadsOutIsRefused(t *testing.T) {
	cases := map[string]tar.Header{
		"parent":         {Name: "./../etc/passwd", Typeflag: tar.TypeReg},
		"no directory":   {Name: "./nowhere/x", Typeflag: tar.TypeReg},
		"below a file":   {Name: "./etc/name/x", Typeflag: tar.TypeReg},
		"through a link": {Name: "./bin/link/x", Typeflag: tar.TypeReg},
		"link to none":   {Name: "./hard", Typeflag: tar.TypeLink, Linkname: "./nothing"},
		"link to a dir":  {Name: "./hard", Typeflag: tar.TypeLink, Linkname: "./etc"},
		"too deep":       {Name: strings.Repeat("d/", maxDepth+1), Typeflag: tar.TypeDir},
		"long name":      {Name: "./" + strings.Repeat("n", 256), Typeflag: tar.TypeReg},
		"sparse type":    {Name: "./x", Typeflag: tar.TypeCont},
	}
	base := baseImage(t)
	for name, header := range cases {
		if _, err := tryMerge(t, base, archive(t, entry{header: header})); err == nil {
			t.Errorf("%s: was accepted", name)
		}
	}
}

func TestDamagedImagesAreRefusedWithoutAPanic(t *testing.T) {
	good, err := os.ReadFile(baseImage(t))
	must(t, err)
	path := filepath.Join(t.TempDir(), "bad.erofs")
	for at := superStart; at < len(good); at += 3 {
		bad := bytes.Clone(good)
		bad[at] ^= 0xff
		must(t, os.WriteFile(path, bad, 0o600))
		if image, err := Open(path); err == nil {
			_, _ = image.Tree()
			image.Close()
		}
	}
}
