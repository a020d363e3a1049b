package pacemaker

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// Run executes a program and returns its standard output. Tests and labs inject their own.
type Run func(ctx context.Context, argv ...string) ([]byte, error)

// Exec runs the program on this machine. The error carries what the program said.
func Exec(ctx context.Context, argv ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err == nil {
		return out, nil
	}
	if ctx.Err() != nil {
		return out, fmt.Errorf("%s: %w", argv[0], ctx.Err())
	}
	if errors.Is(err, exec.ErrNotFound) {
		return out, fmt.Errorf("%s is not installed here; run this on a node of the cluster that has Pacemaker's tools (package pacemaker-cli-utils on Debian, pacemaker-cli on RHEL)", argv[0])
	}
	return out, fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, strings.Join(strings.Fields(stderr.String()), " "))
}

// Cluster speaks to the cluster that this node belongs to.
type Cluster struct{ run Run }

// New makes a Cluster; a nil run means [Exec].
func New(run Run) *Cluster {
	if run == nil {
		run = Exec
	}
	return &Cluster{run: run}
}

// View asks Pacemaker what is where.
func (c *Cluster) View(ctx context.Context) (View, error) {
	out, err := c.run(ctx, "crm_mon", "--one-shot", "--output-as=xml")
	if err != nil {
		return View{}, fmt.Errorf("no answer from Pacemaker on this node: %w; see systemctl status pacemaker", err)
	}
	return ParseView(out)
}

// banPrefix begins the id of the constraint that KeepOff makes; the clone's id follows.
const banPrefix = "understudy-switchover-"

// IsOurs says whether KeepOff made the ban. The next KeepOff of the same clone replaces it.
func (b Ban) IsOurs() bool {
	return b.Promoted && strings.HasPrefix(b.ID, banPrefix+b.Resource)
}

// KeepOff keeps the active role of a clone off a node until a time, at which the constraint
// ends by itself: one whose maker was killed does no lasting harm.
//
// It is not made with crm_resource --ban --promoted --lifetime: that writes a rule without
// the role, which (in Pacemaker 3.0) stops the standby instance on the node as well, so that the
// service would have no standby until the ban is lifted.
func (c *Cluster) KeepOff(ctx context.Context, clone, node string, until time.Time) error {
	id := banPrefix + clone
	x := rscLocation{ID: id, Rsc: clone, Rule: &rule{
		ID: id + "-rule", Role: "Promoted", Score: "-INFINITY", BooleanOp: "and",
		Expression: expression{ID: id + "-node", Attribute: "#uname", Operation: "eq", Value: node},
		Date:       dateExpression{ID: id + "-end", Operation: "lt", End: until.UTC().Format("2006-01-02 15:04:05Z")},
	}}
	text, err := xml.Marshal(x)
	if err != nil {
		return err
	}
	_, err = c.run(ctx, "cibadmin", "--modify", "--allow-create", "--scope", "constraints", "--xml-text", string(text))
	return err
}

// Lift takes away what KeepOff made. Lifting what is not there is no error.
func (c *Cluster) Lift(ctx context.Context, clone string) error {
	text, err := xml.Marshal(rscLocation{ID: banPrefix + clone})
	if err != nil {
		return err
	}
	_, err = c.run(ctx, "cibadmin", "--delete", "--scope", "constraints", "--xml-text", string(text))
	return err
}

// LiftCommand is what a person types to do it.
func LiftCommand(clone string) string {
	return fmt.Sprintf("cibadmin --delete --xml-text '<rsc_location id=%q/>'", banPrefix+clone)
}

// rscLocation is a location constraint with a rule, as the CIB has it.
type rscLocation struct {
	XMLName xml.Name `xml:"rsc_location"`
	ID      string   `xml:"id,attr"`
	Rsc     string   `xml:"rsc,attr,omitempty"`
	Rule    *rule    `xml:"rule"`
}

type rule struct {
	ID         string         `xml:"id,attr"`
	Role       string         `xml:"role,attr"`
	Score      string         `xml:"score,attr"`
	BooleanOp  string         `xml:"boolean-op,attr"`
	Expression expression     `xml:"expression"`
	Date       dateExpression `xml:"date_expression"`
}

type expression struct {
	ID        string `xml:"id,attr"`
	Attribute string `xml:"attribute,attr"`
	Operation string `xml:"operation,attr"`
	Value     string `xml:"value,attr"`
}

type dateExpression struct {
	ID        string `xml:"id,attr"`
	Operation string `xml:"operation,attr"`
	End       string `xml:"end,attr"`
}

// Standby makes a node give up all its resources, or take some again. The setting
// does not survive the node's restart.
func (c *Cluster) Standby(ctx context.Context, node string, on bool) error {
	args := []string{"crm_attribute", "--node", node, "--name", "standby", "--lifetime", "reboot"}
	if on {
		args = append(args, "--update", "on")
	} else {
		args = append(args, "--delete")
	}
	_, err := c.run(ctx, args...)
	return err
}

// Fence has the node rebooted by its fence device, and returns when that is done.
func (c *Cluster) Fence(ctx context.Context, node string) error {
	_, err := c.run(ctx, "stonith_admin", "--reboot", node)
	return err
}
