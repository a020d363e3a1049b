//go:build lab

package e2e

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/test/stack"
)

// attempts are what a thief of the replication key tries from the sender's node with
// the usual programs. None may succeed, or hang. S is ssh's options, AT the account on
// the standby, SECRET a file there that the account could read, STORE the service's store.
var attempts = map[string]string{
	"a command":              `ssh $S $AT "cat $SECRET; touch /tmp/stolen"`,
	"a shell":                `echo "cat $SECRET" | ssh $S $AT sh`,
	"a terminal":             `echo "cat $SECRET" | ssh -tt $S $AT`,
	"another account":        `ssh $S root@${AT#*@} true`,
	"a forwarded port":       `ssh $S -W 127.0.0.1:22 $AT </dev/null`,
	"a port there":           `ssh $S -N -o ExitOnForwardFailure=yes -R 0:127.0.0.1:22 $AT`,
	"a socket there":         `ssh $S -N -o ExitOnForwardFailure=yes -R /tmp/stolen.sock:127.0.0.1:22 $AT`,
	"a tunnel":               `ssh $S -N -o ExitOnForwardFailure=yes -w 7:7 $AT`,
	"the agent, forwarded":   `eval $(ssh-agent) >/dev/null; ssh $S -A $AT 'ssh-add -l; touch /tmp/stolen'; r=$?; kill $SSH_AGENT_PID; exit $r`,
	"X11, forwarded":         `DISPLAY=:0 ssh $S -X $AT 'echo $DISPLAY; touch /tmp/stolen'`,
	"scp to it":              `scp $S /etc/hostname $AT:/tmp/stolen`,
	"scp into the store":     `scp $S /etc/hostname $AT:$STORE/head`,
	"scp from it":            `scp $S $AT:$SECRET /tmp/stolen.here`,
	"the old scp to it":      `scp -O $S /etc/hostname $AT:/tmp/stolen`,
	"the old scp from it":    `scp -O $S $AT:$SECRET /tmp/stolen.here`,
	"sftp get":               `echo "get $SECRET /tmp/stolen.here" | sftp -b - $S $AT`,
	"sftp get of a pack":     `echo "get /$SERVICE/packs/$PACK /tmp/stolen.here" | sftp -b - $S $AT`,
	"sftp rm":                `echo "rm /$SERVICE/packs/$PACK" | sftp -b - $S $AT`,
	"sftp put elsewhere":     `echo "put /etc/hostname /tmp/stolen" | sftp -b - $S $AT`,
	"sftp symlink":           `echo "symlink $SECRET /$SERVICE/incoming/x" | sftp -b - $S $AT`,
	"rsync to it":            `rsync -a --timeout=5 -e "ssh $S" /etc/hostname $AT:/tmp/stolen`,
	"rsync --delete into it": `rsync -a --timeout=5 --delete -e "ssh $S" /root/empty/ $AT:$STORE/`,
	"rsync from it":          `rsync -a --timeout=5 -e "ssh $S" $AT:$SECRET /tmp/stolen.here`,
}

// testStolenKey: with a sender's key one can append to a store, and nothing else
// (invariant 4): not run, forward, read, change or remove anything.
func testStolenKey(t *testing.T, c *cluster) {
	active, standby := c.roles(t)
	const secret, says, dir = "/tmp/understudy-secret", "nobody-with-that-key-may-read-this", "/var/lib/understudy/services/" + stack.Service
	c.sh(t, standby, "echo "+says+" >"+secret+"; chmod 644 "+secret)
	defer c.sh(t, standby, "rm -f "+secret)
	w := c.writing(t) // so that there is a pack
	eventually(t, time.Minute, "a write", func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(w.acked) == 0 {
			return errors.New("none is acknowledged")
		}
		return nil
	})
	w.stop()
	c.sameLedger(t)
	c.settle(t)
	_, err := c.Agent(active).Replicate(limited(t, time.Minute), stack.Service)
	must(t, err) // nothing changes any more but by the thief
	const state, history = "cd " + dir + " && cat head term && sha256sum packs/*", "ls " + dir + "/generations"
	before, known := c.sh(t, standby, state), strings.Fields(c.sh(t, standby, history))
	var script strings.Builder
	script.WriteString(`mkdir -p /root/empty
export SERVICE=` + stack.Service + ` STORE=` + dir + ` SECRET=` + secret + ` AT=understudy@` + standby.IP() + ` PACK=` + c.sh(t, standby, "ls "+dir+"/packs | head -n 1") + `
export S="-F none -i /etc/understudy/ssh_key -o IdentitiesOnly=yes -o UserKnownHostsFile=/etc/understudy/known_hosts -o StrictHostKeyChecking=yes -o BatchMode=yes"
try() {
	r=0
	timeout 60 bash -c "$2" >/tmp/try.$$ 2>&1 </dev/null || r=$?
	case $r in
	0) echo "$1: SUCCEEDED" ;;
	124) echo "$1: HANGS" ;;
	*) echo "$1: refused" ;;
	esac
	cat /tmp/try.$$
}
`)
	script.WriteString(`echo "get /$SERVICE/state /tmp/state.$$" | sftp -b - $S $AT && rm /tmp/state.$$` + "\n") // the key is the right one
	for name, cmd := range attempts {
		script.WriteString("try '" + name + "' '" + strings.ReplaceAll(cmd, "'", `'\''`) + "'\n")
	}
	out := c.sh(t, active, script.String()+"rm -f /tmp/try.*; [ ! -e /tmp/stolen.here ] || echo STOLEN")
	for name := range attempts {
		if !strings.Contains(out, name+": refused\n") {
			t.Errorf("%s was not refused", name)
		}
	}
	if strings.Contains(out, says) || strings.HasSuffix(out, "STOLEN") {
		t.Error("something was read")
	}
	if left := c.sh(t, standby, "ls -d /tmp/stolen* 2>/dev/null || true"); left != "" {
		t.Errorf("there is now %s", left)
	}
	if after := c.sh(t, standby, state); after != before {
		t.Errorf("the store changed:\n%s\nit was:\n%s", after, before)
	}
	for _, name := range strings.Fields(c.sh(t, standby, history)) { // the node itself may prune
		if !slices.Contains(known, name) {
			t.Errorf("the generation %s is new", name)
		}
	}
	if t.Failed() {
		t.Log(out)
	}
}
