package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/understudy-ha/understudy/test/lab"
)

func root() *cobra.Command {
	c := &cobra.Command{
		Use:           "lab",
		Short:         "A two-node cluster on one machine: systemd, Podman, Pacemaker, real fencing",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	c.PersistentFlags().String("name", "lab", "the lab's `name`; several can be up side by side")
	c.AddCommand(upCmd(), superviseCmd(), downCmd(), listCmd(), cleanCmd(), imagesCmd(), logsCmd(), powerLogCmd(), autoBootCmd(),
		execCmd(), shellCmd(), clientCmd(), copyInCmd(), loadCmd(),
		nodeCmd("off NODE", "Pull the power cord of a node", (*lab.Node).PowerOff),
		nodeCmd("boot NODE", "Give a node power and wait until it has booted", (*lab.Node).Boot),
		nodeCmd("reset NODE", "Cut a node's power and boot it again", (*lab.Node).Reset),
		nodeCmd("pause NODE", "Freeze every process of a node", (*lab.Node).Pause),
		nodeCmd("resume NODE", "Let a paused node continue", (*lab.Node).Resume),
		cutCmd(), healCmd())
	return c
}

// attach gives the lab that --name names.
func attach(c *cobra.Command) (*lab.Lab, error) {
	name, _ := c.Flags().GetString("name")
	return lab.Attach(name)
}

// attachNode gives a node of the lab that --name names.
func attachNode(c *cobra.Command, name string) (*lab.Lab, *lab.Node, error) {
	l, err := attach(c)
	if err != nil {
		return nil, nil, err
	}
	if n := l.Node(name); n != nil {
		return l, n, nil
	}
	var names []string
	for _, n := range l.Nodes() {
		names = append(names, n.Name())
	}
	return nil, nil, fmt.Errorf("lab %s has no node %q: it has %s", l.Name(), name, strings.Join(names, " "))
}

func nodeCmd(use, short string, f func(*lab.Node, context.Context) error) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
		_, n, err := attachNode(c, args[0])
		if err != nil {
			return err
		}
		return f(n, c.Context())
	}}
}

func downCmd() *cobra.Command {
	return &cobra.Command{Use: "down", Short: "Remove the lab and everything in it", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		name, _ := c.Flags().GetString("name")
		return lab.Remove(c.Context(), name)
	}}
}

func listCmd() *cobra.Command {
	return &cobra.Command{Use: "list", Short: "List the labs of this machine", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		all, err := lab.List()
		if err != nil {
			return err
		}
		w := tabwriter.NewWriter(c.OutOrStdout(), 0, 8, 2, ' ', 0)
		fmt.Fprintln(w, "LAB\tSTATE\tOWNER\tRUNNING\tSINCE")
		for _, i := range all {
			state := "leftover (lab clean removes it)"
			if i.Alive {
				state = "up"
			}
			fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\n", i.Name, state, i.Owner, strings.Join(i.Running, " "), i.Created.Format("15:04:05"))
		}
		return w.Flush()
	}}
}

func cleanCmd() *cobra.Command {
	return &cobra.Command{Use: "clean", Short: "Remove what killed runs have left behind", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		return lab.CleanLeftovers(c.Context(), c.OutOrStdout())
	}}
}

func logsCmd() *cobra.Command {
	return &cobra.Command{Use: "logs DIR", Short: "Collect the logs of all nodes into a folder", Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
		l, err := attach(c)
		if err != nil {
			return err
		}
		return l.CollectLogs(c.Context(), args[0])
	}}
}

func powerLogCmd() *cobra.Command {
	return &cobra.Command{Use: "power-log", Short: "Print what happened to power and cables, as JSON lines", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		l, err := attach(c)
		if err != nil {
			return err
		}
		b, err := os.ReadFile(l.PowerLogPath())
		if err != nil {
			return err
		}
		_, err = c.OutOrStdout().Write(b)
		return err
	}}
}

func autoBootCmd() *cobra.Command {
	return &cobra.Command{Use: "autoboot on|off", Short: "Say whether a fenced node boots again by itself", Args: cobra.ExactArgs(1), ValidArgs: []string{"on", "off"}, RunE: func(c *cobra.Command, args []string) error {
		l, err := attach(c)
		if err != nil {
			return err
		}
		if args[0] != "on" && args[0] != "off" {
			return fmt.Errorf("autoboot %q: use on or off", args[0])
		}
		return l.SetAutoBoot(args[0] == "on")
	}}
}

func execCmd() *cobra.Command {
	c := &cobra.Command{Use: "exec NODE COMMAND...", Short: "Run a command on a node", Args: cobra.MinimumNArgs(2), RunE: func(c *cobra.Command, args []string) error {
		_, n, err := attachNode(c, args[0])
		if err != nil {
			return err
		}
		return passThrough(n.Command(c.Context(), args[1:]...))
	}}
	c.Flags().SetInterspersed(false)
	return c
}

func shellCmd() *cobra.Command {
	return &cobra.Command{Use: "shell NODE", Short: "Open a shell on a node", Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
		_, n, err := attachNode(c, args[0])
		if err != nil {
			return err
		}
		// script(1) gives the shell a terminal of the node's own.
		return passThrough(n.Command(c.Context(), "script", "-q", "-c", "bash -l", "/dev/null"))
	}}
}

func clientCmd() *cobra.Command {
	c := &cobra.Command{Use: "client COMMAND...", Short: "Run a program of this machine in the client's network", Args: cobra.MinimumNArgs(1), RunE: func(c *cobra.Command, args []string) error {
		l, err := attach(c)
		if err != nil {
			return err
		}
		return passThrough(l.Client().Command(c.Context(), args...))
	}}
	c.Flags().SetInterspersed(false)
	return c
}

// passThrough runs cmd on this terminal: in the foreground's process group, so that it can read from
// the terminal and gets its Ctrl-C.
func passThrough(cmd *exec.Cmd) error {
	cmd.SysProcAttr.Setpgid = false
	cmd.Cancel = func() error { return cmd.Process.Kill() }
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd.Run()
}

func copyInCmd() *cobra.Command {
	return &cobra.Command{Use: "copy NODE FILE PATH", Short: "Copy a file of this machine to a node", Args: cobra.ExactArgs(3), RunE: func(c *cobra.Command, args []string) error {
		_, n, err := attachNode(c, args[0])
		if err != nil {
			return err
		}
		st, err := os.Stat(args[1])
		if err != nil {
			return err
		}
		return n.CopyIn(c.Context(), args[1], args[2], st.Mode().Perm())
	}}
}

func cutCmd() *cobra.Command {
	c := &cobra.Command{Use: "cut A B", Short: "Cut the network between two nodes, or a node and the client", Args: cobra.ExactArgs(2), RunE: func(c *cobra.Command, args []string) error {
		l, err := attach(c)
		if err != nil {
			return err
		}
		if one, _ := c.Flags().GetBool("one-way"); one {
			return l.CutOneWay(c.Context(), args[0], args[1])
		}
		return l.Cut(c.Context(), args[0], args[1])
	}}
	c.Flags().Bool("one-way", false, "drop only what A sends to B")
	return c
}

func healCmd() *cobra.Command {
	return &cobra.Command{Use: "heal [A B]", Short: "Undo cuts: between two, or all", Args: cobra.MatchAll(cobra.MaximumNArgs(2), func(_ *cobra.Command, args []string) error {
		if len(args) == 1 {
			return fmt.Errorf("heal takes two ends, or none for all")
		}
		return nil
	}), RunE: func(c *cobra.Command, args []string) error {
		l, err := attach(c)
		if err != nil {
			return err
		}
		if len(args) == 0 {
			return l.HealAll(c.Context())
		}
		return l.Heal(c.Context(), args[0], args[1])
	}}
}

func imagesCmd() *cobra.Command {
	return &cobra.Command{Use: "images [NAME...]", Short: "Build the container images and print their archives", RunE: func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			args = lab.ImageNames()
		}
		for _, name := range args {
			path, err := lab.Image(c.Context(), name)
			if err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "%s %s\n", name, path)
		}
		return nil
	}}
}

func loadCmd() *cobra.Command {
	return &cobra.Command{Use: "load NODE IMAGE...", Short: "Load images into a node's Podman as localhost/IMAGE:1", Args: cobra.MinimumNArgs(2), RunE: func(c *cobra.Command, args []string) error {
		_, n, err := attachNode(c, args[0])
		if err != nil {
			return err
		}
		for _, name := range args[1:] {
			if err := n.LoadImage(c.Context(), name); err != nil {
				return err
			}
		}
		return nil
	}}
}
