package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/understudy-ha/understudy/test/lab"
)

// ready is the line by which the daemon says that the lab is up; everything before is progress.
const ready = "\x00ready"

func upFlags(f *pflag.FlagSet) {
	f.StringSlice("nodes", []string{"n1", "n2"}, "the nodes' `names`")
	f.String("fs", "xfs", "file `system` of the nodes' disks: xfs, btrfs or ext4")
	f.String("deb", "", "package `file` to install on every node")
	f.Bool("cluster", false, "start a cluster with fencing")
	f.Duration("token", time.Second, "Corosync's token timeout")
	f.Bool("keep-unsynced", false, "keep what a node has not synced when its power is cut")
	f.Bool("manual-boot", false, "leave a fenced node off")
}

func optionsOf(c *cobra.Command) lab.Options {
	f := c.Flags()
	var o lab.Options
	o.Name, _ = f.GetString("name")
	o.Nodes, _ = f.GetStringSlice("nodes")
	o.FS, _ = f.GetString("fs")
	o.Deb, _ = f.GetString("deb")
	o.Cluster, _ = f.GetBool("cluster")
	o.Token, _ = f.GetDuration("token")
	o.ManualBoot, _ = f.GetBool("manual-boot")
	o.KeepUnsynced, _ = f.GetBool("keep-unsynced")
	return o
}

// upCmd starts a daemon that makes and owns the lab, and waits until the lab is up.
func upCmd() *cobra.Command {
	c := &cobra.Command{Use: "up", Short: "Make a lab and boot its nodes", Args: cobra.NoArgs}
	upFlags(c.Flags())
	c.RunE = func(c *cobra.Command, _ []string) error {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		defer r.Close()
		args := []string{"supervise"}
		c.Flags().Visit(func(f *pflag.Flag) {
			args = append(args, "--"+f.Name+"="+strings.Trim(f.Value.String(), "[]"))
		})
		d := exec.Command(self, args...)
		d.ExtraFiles = []*os.File{w}
		d.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		err = d.Start()
		w.Close()
		if err != nil {
			return err
		}
		return follow(c.Context(), d, r, c)
	}
	return c
}

// follow shows the daemon's progress until the lab is up or the daemon ends. An interrupt is passed on:
// the daemon then removes what it has made.
func follow(ctx context.Context, d *exec.Cmd, r *os.File, c *cobra.Command) error {
	stop := context.AfterFunc(ctx, func() { _ = d.Process.Signal(syscall.SIGTERM) })
	defer stop()
	var last string
	for sc := bufio.NewScanner(r); sc.Scan(); {
		if sc.Text() == ready {
			return d.Process.Release()
		}
		if e, ok := strings.CutPrefix(sc.Text(), "\x00error "); ok {
			last = strings.ReplaceAll(e, "\x00", "\n")
			continue
		}
		fmt.Fprintln(c.OutOrStdout(), sc.Text())
	}
	err := d.Wait()
	if err == nil || last != "" {
		return errors.New(last)
	}
	return fmt.Errorf("the lab's daemon ended: %w", err)
}

// superviseCmd is the daemon: it owns the lab and serves its power switch until it is told to stop, and
// then takes the lab down.
func superviseCmd() *cobra.Command {
	c := &cobra.Command{Use: "supervise", Short: "Own a lab and serve its power switch (started by up)", Args: cobra.NoArgs}
	upFlags(c.Flags())
	c.RunE = func(c *cobra.Command, _ []string) error {
		out := os.NewFile(3, "progress")
		if _, err := out.Stat(); err != nil {
			out = os.Stdout
		}
		syscall.CloseOnExec(int(out.Fd()))
		o := optionsOf(c)
		o.Out = out
		err := lab.Supervise(c.Context(), o, func() {
			fmt.Fprintln(out, ready)
			out.Close()
		})
		if err != nil {
			fmt.Fprintf(out, "\x00error %s\n", strings.ReplaceAll(err.Error(), "\n", "\x00"))
		}
		return err
	}
	return c
}
