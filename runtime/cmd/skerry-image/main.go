// skerry-image makes the images that sandboxes mount.
//
//	skerry-image merge --base BASE.erofs --upper UPPER.tar [--drop PATH]... [--xattrs FILE] [--most BYTES] OUT.erofs
//	    prints each path that an image cannot hold, quoted, on a line; makes no image of more than BYTES, and leaves
//	    an empty file where it fails
//	skerry-image check IMAGE.erofs
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"

	"skerry/runtime/erofs"
)

type paths []string

func (p *paths) String() string     { return fmt.Sprint(*p) }
func (p *paths) Set(s string) error { *p = append(*p, s); return nil }

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "skerry-image:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New("usage: skerry-image merge|check")
	}
	switch args[0] {
	case "merge":
		return merge(args[1:])
	case "check":
		return check(args[1:])
	}
	return fmt.Errorf("unknown command %q; there are merge and check", args[0])
}

func merge(args []string) error {
	flags := flag.NewFlagSet("merge", flag.ContinueOnError)
	base := flags.String("base", "", "the image below")
	upper := flags.String("upper", "", "the archive of the upper layer")
	xattrs := flags.String("xattrs", "", "where to write the extended attributes, as JSON")
	most := flags.Int64("most", 0, "the bytes that the image may have; 0 for any number")
	var drop paths
	flags.Var(&drop, "drop", "a path to leave out; may be repeated")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 1 || *base == "" || *upper == "" {
		return errors.New("merge needs --base, --upper and the file to make")
	}
	if err := limit(*most); err != nil {
		return err
	}
	// Everything is opened before a byte of it is read.
	opened, err := open(*base, *upper, flags.Arg(0), *xattrs)
	if err != nil {
		return err
	}
	if err := confine(); err != nil {
		return err
	}
	return opened.merge(drop, *most)
}

// work is the files of one merge.
type work struct{ base, upper, out, xattrs *os.File }

func open(base, upper, out, xattrs string) (work, error) {
	const created = os.O_RDWR | os.O_CREATE | os.O_EXCL
	var (
		opened work
		errs   [4]error
	)
	opened.base, errs[0] = os.Open(base)
	opened.upper, errs[1] = os.Open(upper)
	if err := errors.Join(errs[:]...); err != nil {
		return work{}, err
	}
	opened.out, errs[2] = os.OpenFile(out, created, 0o600)
	if xattrs != "" {
		opened.xattrs, errs[3] = os.OpenFile(xattrs, created, 0o600)
	}
	return opened, errors.Join(errs[:]...)
}

func (w work) merge(drop paths, most int64) error {
	made, err := w.write(drop, most)
	if err != nil {
		// No file is left that could be taken for an image; whoever gave its name removes it.
		return errors.Join(err, w.out.Truncate(0))
	}
	for _, path := range made.LeftOut {
		fmt.Printf("%q\n", path)
	}
	if w.xattrs == nil {
		return nil
	}
	return writeXattrs(w.xattrs, made.Xattrs)
}

func (w work) write(drop paths, most int64) (*erofs.Writer, error) {
	image, err := erofs.Read(w.base)
	if err != nil {
		return nil, err
	}
	info, err := w.upper.Stat()
	if err != nil {
		return nil, err
	}
	if err := erofs.CheckEnd(w.upper, info.Size()); err != nil {
		return nil, err
	}
	made, err := fill(w.out, image, w.upper, drop, most)
	if err != nil {
		return nil, err
	}
	return made, w.out.Sync()
}

func fill(out *os.File, image *erofs.Image, archive *os.File, drop []string, most int64) (*erofs.Writer, error) {
	root, err := image.Tree()
	if err != nil {
		return nil, err
	}
	writer := erofs.NewWriter(out)
	writer.Most = most
	if err := writer.Apply(root, bufio.NewReaderSize(archive, 1<<20)); err != nil {
		return nil, err
	}
	for _, path := range drop {
		if err := root.Remove(path); err != nil {
			return nil, err
		}
	}
	// An attribute of a path that was dropped belongs to nothing.
	writer.Xattrs = slices.DeleteFunc(writer.Xattrs, func(x erofs.Xattr) bool { return !root.Has(string(x.Path)) })
	return writer, writer.Finish(root)
}

func writeXattrs(file *os.File, found []erofs.Xattr) error {
	if found == nil {
		found = []erofs.Xattr{}
	}
	text, err := json.Marshal(found)
	if err != nil {
		return err
	}
	_, err = file.Write(text)
	return err
}

func check(args []string) error {
	if len(args) != 1 {
		return errors.New("check needs one image")
	}
	file, err := os.Open(args[0])
	if err != nil {
		return err
	}
	if err := confine(); err != nil {
		return err
	}
	image, err := erofs.Read(file)
	if err != nil {
		return err
	}
	_, err = image.Tree()
	return err
}
