package main

import (
	"cmp"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/understudy-ha/understudy/agent/api"
)

// diffCommand compares two generations.
func diffCommand(a *app) *cobra.Command {
	var flags keptFlags
	var short bool
	c := &cobra.Command{
		Use:   "diff SERVICE GENERATION GENERATION",
		Short: "What changed from one generation to another",
		Long: `List what is different in the second generation: + added, - removed, ~ other content, m other
metadata only, > renamed (the same content under another name). Generations are named as
history does; "head" is the newest. It needs no agent.`,
		Example: `  understudy diff registry 7.118 head
  understudy diff registry 7.118 6.40.1 --summary`,
		Args: cobra.ExactArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error {
			kept, err := flags.open(cmd, args[0])
			if err != nil {
				return err
			}
			d, err := kept.Diff(args[1], args[2])
			if err != nil {
				return err
			}
			if short {
				d.Changes = nil
			}
			if a.json {
				return a.printJSON(d)
			}
			printDiff(a.out, d)
			return nil
		},
	}
	c.Flags().BoolVar(&short, "summary", false, "only count")
	flags.add(c)
	return c
}

var diffMarks = map[string]string{"added": "+", "removed": "-", "changed": "~", "metadata": "m", "renamed": ">"}

func printDiff(w io.Writer, d api.Diff) {
	for _, c := range d.Changes {
		line := cmp.Or(diffMarks[c.Kind], "?") + " " + c.Volume + "/" + shown(c.Path)
		switch c.Kind {
		case "renamed":
			line += ", was " + shown(c.From)
		case "changed":
			line += fmt.Sprintf(" (%s, was %s; %s new)", bytesOf(uint64(c.After)), bytesOf(uint64(c.Before)), bytesOf(uint64(c.New)))
		case "added":
			line += fmt.Sprintf(" (%s)", bytesOf(uint64(c.After)))
		}
		fmt.Fprintln(w, line)
	}
	var counts []string
	for _, kind := range []string{"added", "removed", "changed", "renamed", "metadata"} {
		if n := d.Counts[kind]; n > 0 {
			counts = append(counts, fmt.Sprintf("%d %s", n, kind))
		}
	}
	fmt.Fprintf(w, "%s to %s: %s; %s new\n", d.From, d.To, cmp.Or(strings.Join(counts, ", "), "no difference"), bytesOf(uint64(d.New)))
}

// shown is a path on one line of a terminal.
func shown(path string) string {
	if strings.ContainsFunc(path, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(path)
	}
	return path
}
