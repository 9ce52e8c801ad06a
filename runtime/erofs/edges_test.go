package erofs

import (
	"archive/tar"
	"bytes"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func apply(t *testing.T, upper *bytes.Buffer) (*Writer, *Node) {
	t.Helper()
	out, err := os.Create(filepath.Join(t.TempDir(), "out.erofs"))
	must(t, err)
	t.Cleanup(func() { out.Close() })
	writer, root := NewWriter(out), newDir(0o755)
	must(t, writer.Apply(root, upper))
	return writer, root
}

func checked(t *testing.T, path string) {
	t.Helper()
	if out, err := exec.Command("fsck.erofs", path).CombinedOutput(); err != nil {
		t.Errorf("fsck.erofs: %v: %s", err, out)
	}
}

func TestDevicesAreLeftOutWithAllTheirNames(t *testing.T) {
	writer, root := apply(t, archive(t,
		entry{header: tar.Header{Name: "./dir/", Typeflag: tar.TypeDir}},
		entry{header: tar.Header{Name: "./dir/null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}},
		entry{header: tar.Header{Name: "./dir/loop", Typeflag: tar.TypeBlock}},
		entry{header: tar.Header{Name: "./again", Typeflag: tar.TypeLink, Linkname: "./dir/null"}},
		entry{header: tar.Header{Name: "./gone", Typeflag: tar.TypeChar}},
	))
	if !slices.Equal(writer.LeftOut, []string{"/dir/null", "/dir/loop", "/again"}) {
		t.Errorf("left out: %q", writer.LeftOut)
	}
	for _, path := range []string{"dir/null", "dir/loop", "again", "gone"} {
		if root.Has(path) {
			t.Errorf("%s is in the tree", path)
		}
	}
}

func TestAttributesAreBytesAndListsAreDecoded(t *testing.T) {
	acl := []byte{2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255}
	capability := "\x01\x00\x00\x02\x00\x04" + strings.Repeat("\x00", 14)
	writer, _ := apply(t, archive(t,
		entry{header: tar.Header{Name: "./", Typeflag: tar.TypeDir, PAXRecords: map[string]string{paxXattr + "user.top": "t"}}},
		entry{header: tar.Header{Name: "./d/", Typeflag: tar.TypeDir, PAXRecords: map[string]string{
			paxOpaque: "y", paxXattr + "system.posix_acl_default": base64.RawStdEncoding.EncodeToString(acl)}}},
		entry{header: tar.Header{Name: "./d/\xff", Typeflag: tar.TypeReg, PAXRecords: map[string]string{
			paxXattr + "security.capability": capability}}},
	))
	want := []Xattr{
		{Path: []byte("/"), Name: "user.top", Value: []byte("t")},
		{Path: []byte("/d"), Name: "system.posix_acl_default", Value: acl},
		{Path: []byte("/d/\xff"), Name: "security.capability", Value: []byte(capability)},
	}
	if fmt.Sprint(writer.Xattrs) != fmt.Sprint(want) {
		t.Errorf("attributes: %q", writer.Xattrs)
	}
}

func TestAnAccessListThatIsNotBase64IsRefused(t *testing.T) {
	header := tar.Header{Name: "./x", Typeflag: tar.TypeReg, PAXRecords: map[string]string{paxXattr + "system.posix_acl_access": "?"}}
	if _, err := tryMerge(t, baseImage(t), archive(t, entry{header: header})); err == nil {
		t.Error("was accepted")
	}
}

func TestAFileReplacesAnythingOfItsNameAndTheReverse(t *testing.T) {
	_, root := merged(t, baseImage(t), archive(t,
		entry{header: tar.Header{Name: "./gone", Typeflag: tar.TypeReg}, body: "a file now"},
		entry{header: tar.Header{Name: "./etc/", Typeflag: tar.TypeDir}},
		entry{header: tar.Header{Name: "./etc/name/", Typeflag: tar.TypeDir}},
		entry{header: tar.Header{Name: "./etc/name/inside", Typeflag: tar.TypeReg}, body: "x"},
		entry{header: tar.Header{Name: "./bin/link", Typeflag: tar.TypeReg}, body: "no link"},
	))
	if root.Has("gone/a") || !root.Has("etc/name/inside") || !root.children["bin"].children["link"].isRegular() {
		t.Error("the old kind of a file is still there")
	}
}

func TestTheEdgesOfSizesAndTimesComeBack(t *testing.T) {
	var entries []entry
	sizes := []int{0, 1, blockSize - 1, blockSize, blockSize + 1, 3*blockSize - 1}
	for _, size := range sizes {
		entries = append(entries, entry{header: tar.Header{Name: fmt.Sprintf("./f%d", size), Typeflag: tar.TypeReg}, body: strings.Repeat("x", size)})
	}
	targets := []int{1, blockSize - extendedInode - 1, blockSize - extendedInode, blockSize - extendedInode + 1, maxTarget}
	for _, size := range targets {
		entries = append(entries, entry{header: tar.Header{Name: fmt.Sprintf("./l%d", size), Typeflag: tar.TypeSymlink, Linkname: strings.Repeat("t", size)}})
	}
	old := time.Unix(-86400, 123456789)
	entries = append(entries, entry{header: tar.Header{Name: "./old", Typeflag: tar.TypeReg, ModTime: old, Format: tar.FormatPAX, Uid: 1<<31 - 1, Gid: 70000}})
	path, err := tryMerge(t, baseImage(t), archive(t, entries...))
	must(t, err)
	checked(t, path)
	image, err := Open(path)
	must(t, err)
	defer image.Close()
	root, err := image.Tree()
	must(t, err)
	for _, size := range sizes {
		if got := text(t, image, root, fmt.Sprintf("f%d", size)); got != strings.Repeat("x", size) {
			t.Errorf("a file of %d bytes came back with %d", size, len(got))
		}
	}
	for _, size := range targets {
		if got := root.children[fmt.Sprintf("l%d", size)].Target; got != strings.Repeat("t", size) {
			t.Errorf("a link of %d bytes came back with %d", size, len(got))
		}
	}
	node := root.children["old"]
	if node.Mtime != old.Unix() || node.UID != 1<<31-1 || node.GID != 70000 {
		t.Errorf("old: time %d, owner %d:%d", node.Mtime, node.UID, node.GID)
	}
}

func TestAHugeDirectoryAndADeepOneAreReadBack(t *testing.T) {
	var entries []entry
	const files = 60_000
	entries = append(entries, entry{header: tar.Header{Name: "./many/", Typeflag: tar.TypeDir}})
	for i := range files {
		entries = append(entries, entry{header: tar.Header{Name: fmt.Sprintf("./many/%d", i), Typeflag: tar.TypeFifo}})
	}
	name := "./"
	for range 1000 {
		name += "d/"
		entries = append(entries, entry{header: tar.Header{Name: name, Typeflag: tar.TypeDir}})
	}
	path, err := tryMerge(t, baseImage(t), archive(t, entries...))
	must(t, err)
	image, err := Open(path)
	must(t, err)
	defer image.Close()
	root, err := image.Tree()
	must(t, err)
	if got := len(root.children["many"].children); got != files {
		t.Errorf("%d files came back", got)
	}
	if !root.Has(name) {
		t.Error("the deep directory is not there")
	}
}

func TestALayerCutOffAnywhereIsRefused(t *testing.T) {
	base := baseImage(t)
	whole := archive(t,
		entry{header: tar.Header{Name: "./a", Typeflag: tar.TypeReg}, body: strings.Repeat("x", 3000)},
		entry{header: tar.Header{Name: "./b", Typeflag: tar.TypeReg}, body: "y"},
	).Bytes()
	for _, at := range []int{100, 511, 513, 2000, 3600} {
		if _, err := tryMerge(t, base, bytes.NewBuffer(whole[:at])); err == nil {
			t.Errorf("%d of %d bytes were accepted", at, len(whole))
		}
	}
}

func TestALayerCutOffBetweenTwoFilesHasNoEnd(t *testing.T) {
	whole := archive(t,
		entry{header: tar.Header{Name: "./a", Typeflag: tar.TypeReg}, body: "x"},
		entry{header: tar.Header{Name: "./b", Typeflag: tar.TypeReg}, body: "y"},
	).Bytes()
	for size, want := range map[int]bool{len(whole): true, 1024: false, 2048: false, 512: false, 0: false} {
		if err := CheckEnd(bytes.NewReader(whole[:size]), int64(size)); (err == nil) != want {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

// FuzzApply feeds archives as a broken-out sentry could write them. The seeds run with every test.
func FuzzApply(f *testing.F) {
	t := &testing.T{}
	for _, flag := range []byte{tar.TypeReg, tar.TypeDir, tar.TypeLink, tar.TypeSymlink, tar.TypeChar, tar.TypeBlock, tar.TypeFifo} {
		header := tar.Header{Name: "./d/x", Linkname: "./d", Typeflag: flag, PAXRecords: map[string]string{paxXattr + "user.x": "1"}}
		f.Add(archive(t, entry{header: tar.Header{Name: "./d/", Typeflag: tar.TypeDir}}, entry{header: header}).Bytes())
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		path := filepath.Join(t.TempDir(), "out.erofs")
		out, err := os.Create(path)
		must(t, err)
		defer out.Close()
		writer, root := NewWriter(out), newDir(0o755)
		if writer.Apply(root, bytes.NewReader(raw)) != nil {
			return
		}
		must(t, writer.Finish(root))
		image, err := Open(path)
		must(t, err)
		defer image.Close()
		if _, err := image.Tree(); err != nil {
			t.Errorf("an image that we wrote cannot be read: %v", err)
		}
	})
}

func TestZerosBecomeHolesAndComeBack(t *testing.T) {
	const size = 64 << 20
	body := make([]byte, size)
	copy(body[3<<20+5:], "in the middle")
	copy(body[size-3:], "end")
	sparse, err := tryMerge(t, baseImage(t), archive(t, entry{header: tar.Header{Name: "./sparse", Typeflag: tar.TypeReg}, body: string(body)}))
	must(t, err)
	again, err := tryMerge(t, sparse, archive(t)) // the second time it comes from an image
	must(t, err)
	for _, path := range []string{sparse, again} {
		checked(t, path)
		info, err := os.Stat(path)
		must(t, err)
		if used := info.Sys().(*syscall.Stat_t).Blocks * 512; used > 1<<20 {
			t.Errorf("%d bytes of disk for a file of a few", used)
		}
		image, err := Open(path)
		must(t, err)
		defer image.Close()
		root, err := image.Tree()
		must(t, err)
		if text(t, image, root, "sparse") != string(body) {
			t.Error("the content changed")
		}
		if text(t, image, root, "bin/tool") != strings.Repeat("x", 9000) {
			t.Error("a file of the base changed")
		}
	}
}

func TestAnImageBeyondItsBoundIsRefused(t *testing.T) {
	out, err := os.Create(filepath.Join(t.TempDir(), "out.erofs"))
	must(t, err)
	defer out.Close()
	writer, root := NewWriter(out), newDir(0o755)
	writer.Most = 1 << 20
	full := entry{header: tar.Header{Name: "./full", Typeflag: tar.TypeReg}, body: strings.Repeat("x", 900<<10)}
	must(t, writer.Apply(root, archive(t, full)))
	if err := writer.Apply(root, archive(t, full)); err == nil || !strings.Contains(err.Error(), "more than 1048576 bytes") {
		t.Errorf("the file too many: %v", err)
	}
	writer.Most = writer.end
	if err := writer.Finish(root); err == nil {
		t.Error("the metadata were not counted")
	}
}

func TestTheFirstAttributeTooManyIsRefused(t *testing.T) {
	with := func(records map[string]string) entry {
		return entry{header: tar.Header{Name: "./x", Typeflag: tar.TypeReg, PAXRecords: records}}
	}
	many := map[string]string{}
	for n := range maxXattrs + 1 {
		many[fmt.Sprintf("%suser.%d", paxXattr, n)] = "x"
	}
	large := map[string]string{paxXattr + "user.large": strings.Repeat("x", maxXattrBytes)}
	for _, records := range []map[string]string{many, large} {
		out, err := os.Create(filepath.Join(t.TempDir(), "out.erofs"))
		must(t, err)
		defer out.Close()
		writer := NewWriter(out)
		err = writer.Apply(newDir(0o755), archive(t, with(records)))
		if err == nil || !strings.Contains(err.Error(), "setfattr -x") {
			t.Errorf("%d attributes: %v", len(records), err)
		}
		if len(writer.Xattrs) > maxXattrs {
			t.Errorf("%d attributes were held", len(writer.Xattrs))
		}
	}
	apply(t, archive(t, with(map[string]string{paxXattr + "user.fits": strings.Repeat("x", maxXattrBytes-100)})))
}
