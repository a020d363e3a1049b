package ocf

import (
	"fmt"
	"io"
	"strings"

	"github.com/understudy-ha/understudy/agent/api"
)

// doctype names the DTD that the package installs: OCF 1.0's, which ocf-tester
// validates against, with what version 1.1 added. Declarations in the document itself
// would do, but Pacemaker logs a failed assertion for each of them.
const doctype = `<!DOCTYPE resource-agent SYSTEM "/usr/share/understudy/ra-api-1.1.dtd">`

const agentLong = `Keeps a service of Podman containers available on a pair (or a few) of nodes. The promoted (active) node runs the containers and has the virtual IP addresses. The unpromoted (standby) nodes hold a verified replica of the volumes, with images, networks and containers made ready, so that a takeover only starts a process.

The agent of the package understudy (understudy.service) has to be configured on every node first, in /etc/understudy/agent.toml.

Example:

pcs resource create registry ocf:understudy:service vip=192.0.2.100/24 containers=registry op monitor interval=10s role=Promoted op monitor interval=11s role=Unpromoted promotable

Durations are a number and a unit: 500ms, 5s, 2min, 1h; without a unit they are seconds.`

// operation is an action as Pacemaker should run it.
type operation struct {
	name, timeout, interval, role string
}

var operations = []operation{
	{name: ActionStart, timeout: "60s"},
	{name: ActionStop, timeout: "60s"},
	{name: ActionPromote, timeout: "60s"},
	{name: ActionDemote, timeout: "60s"},
	// Two monitors of one resource need different intervals.
	{name: ActionMonitor, timeout: "20s", interval: "10s", role: "Promoted"},
	{name: ActionMonitor, timeout: "20s", interval: "11s", role: "Unpromoted"},
	{name: ActionReload, timeout: "20s"},
	{name: ActionValidate, timeout: "20s"},
	{name: ActionMetaData, timeout: "5s"},
}

var escape = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;")

// writeMetaData describes the resource agent, as OCF 1.1 has it.
func writeMetaData(w io.Writer) error {
	var b strings.Builder
	b.WriteString("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n" + doctype + "\n")
	fmt.Fprintf(&b, "<resource-agent name=\"service\" version=\"%s\">\n<version>1.1</version>\n", escape.Replace(api.Software))
	describe(&b, agentLong, "Replicated, highly available service of Podman containers")
	b.WriteString("\n<parameters>\n")
	for _, p := range parameters {
		p.writeTo(&b)
	}
	b.WriteString("</parameters>\n\n<actions>\n")
	for _, o := range operations {
		o.writeTo(&b)
	}
	b.WriteString("</actions>\n</resource-agent>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func describe(b *strings.Builder, long, short string) {
	fmt.Fprintf(b, "<longdesc lang=\"en\">\n%s\n</longdesc>\n<shortdesc lang=\"en\">%s</shortdesc>\n", escape.Replace(long), escape.Replace(short))
}

func (p parameter) writeTo(b *strings.Builder) {
	fmt.Fprintf(b, "<parameter name=\"%s\"", p.name)
	if p.uniqueGroup != "" {
		fmt.Fprintf(b, " unique-group=\"%s\"", p.uniqueGroup)
	}
	fmt.Fprintf(b, " required=\"0\" reloadable=\"%d\">\n", bit(p.reloadable))
	describe(b, p.description(), p.short)
	b.WriteString("<content type=\"string\"")
	if p.def != "" {
		fmt.Fprintf(b, " default=\"%s\"", escape.Replace(p.def))
	}
	b.WriteString(" />\n</parameter>\n\n")
}

// description is the meaning with default and example: pcs shows nothing else.
func (p parameter) description() string {
	def := "none"
	if p.def != "" {
		def = p.def
	}
	return fmt.Sprintf("%s\nDefault: %s. Example: %s=%s", p.long, def, p.name, p.example)
}

func (o operation) writeTo(b *strings.Builder) {
	fmt.Fprintf(b, "<action name=\"%s\" timeout=\"%s\"", o.name, o.timeout)
	if o.interval != "" {
		fmt.Fprintf(b, " depth=\"0\" interval=\"%s\" role=\"%s\"", o.interval, o.role)
	}
	b.WriteString(" />\n")
}

func bit(b bool) int {
	if b {
		return 1
	}
	return 0
}
