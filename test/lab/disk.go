package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// fileSystems are those that a node's disk can have, each with the command that makes one in an image.
var fileSystems = map[string][]string{
	"xfs":   {"mkfs.xfs", "-q", "-f", "-m", "reflink=1"},
	"btrfs": {"mkfs.btrfs", "-q", "-f"},
	"ext4":  {"mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1"},
}

// makeDisk makes a sparse image with a file system; an existing one is left alone.
func makeDisk(ctx context.Context, image, fs string, size int64) error {
	if _, err := os.Stat(image); err == nil {
		return nil
	}
	tmp := image + ".tmp"
	f, err := os.Create(tmp)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		return err
	}
	mkfs := fileSystems[fs]
	if err := run(ctx, "", mkfs[0], append(mkfs[1:len(mkfs):len(mkfs)], tmp)...); err != nil {
		return err
	}
	return os.Rename(tmp, image)
}

// attachLoop gives image a loop device that lets go of it when the last mount is gone. The caller
// closes the file once it is mounted; its name is the device.
func attachLoop(image string) (*os.File, error) {
	back, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer back.Close()
	ctl, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("loop devices: %w", err)
	}
	defer ctl.Close()
	for range 100 {
		i, err := unix.IoctlRetInt(int(ctl.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("no free loop device: %w", err)
		}
		dev, err := openLoop(i)
		if err != nil {
			return nil, err
		}
		cfg := unix.LoopConfig{Fd: uint32(back.Fd())}
		cfg.Info.Flags = unix.LO_FLAGS_AUTOCLEAR
		copy(cfg.Info.File_name[:len(cfg.Info.File_name)-1], image)
		err = unix.IoctlLoopConfigure(int(dev.Fd()), &cfg)
		if err == nil {
			return dev, nil
		}
		dev.Close()
		// Somebody else took the device between the question and the answer.
		if !errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("attach %s to %s: %w", image, dev.Name(), err)
		}
	}
	return nil, errors.New("loop devices are taken away as fast as they are found")
}

// openLoop opens loop device i, whose node may not be there yet on a machine without udev.
func openLoop(i int) (*os.File, error) {
	name := fmt.Sprintf("/dev/loop%d", i)
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		_ = unix.Mknod(name, unix.S_IFBLK|0o660, int(unix.Mkdev(7, uint32(i))))
		f, err = os.OpenFile(name, os.O_RDWR, 0)
	}
	return f, err
}

// loopsOf lists the devices that are attached to image, or to files below it if it is a directory.
func loopsOf(image string) []string {
	var devs []string
	found, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, p := range found {
		b, err := os.ReadFile(p)
		if err != nil {
			continue
		}
		file := strings.TrimSuffix(strings.TrimSpace(string(b)), " (deleted)")
		if file == image || strings.HasPrefix(file, image+"/") {
			devs = append(devs, "/dev/"+strings.Split(p, "/")[3])
		}
	}
	return devs
}

// waitLoopFree returns when no loop device has image any more.
func waitLoopFree(ctx context.Context, image string) error {
	for {
		devs := loopsOf(image)
		if len(devs) == 0 {
			return nil
		}
		if err := sleep(ctx, 5*time.Millisecond); err != nil {
			return fmt.Errorf("%s is still in use by %v: %w", image, devs, err)
		}
	}
}

// detachLoops makes every loop device below dir let go of its file, as soon as nothing mounts it.
func detachLoops(dir string) error {
	var errs error
	for _, dev := range loopsOf(dir) {
		f, err := os.OpenFile(dev, os.O_RDWR, 0)
		if err != nil {
			errs = errors.Join(errs, err)
			continue
		}
		err = unix.IoctlSetInt(int(f.Fd()), unix.LOOP_CLR_FD, 0)
		f.Close()
		if err != nil && !errors.Is(err, unix.ENXIO) {
			errs = errors.Join(errs, fmt.Errorf("detach %s: %w", dev, err))
		}
	}
	return errs
}

// Shutting a file system down is the same request on XFS and ext4: XFS_IOC_GOINGDOWN and
// EXT4_IOC_SHUTDOWN, _IOR('X', 125, __u32). The flag drops the log in memory too.
const (
	ioctlShutdown      = 0x8004587d
	shutdownNoLogFlush = 2
)

// openDisk opens the disk that the node with this PID 1 has mounted. While the file is open the file
// system stays mounted, also when the node's namespaces are gone.
func openDisk(pid1 process) (*os.File, error) {
	return os.Open(fmt.Sprintf("/proc/%d/root/mnt/disk", pid1.PID))
}

// loseUnsynced makes the file system forget what was not synced, as a disk without power does. The next
// mount recovers from the log.
func loseUnsynced(disk *os.File) error {
	err := unix.IoctlSetPointerInt(int(disk.Fd()), ioctlShutdown, shutdownNoLogFlush)
	if err != nil && !errors.Is(err, unix.EIO) {
		return fmt.Errorf("shut the disk's file system down: %w", err)
	}
	return nil
}
