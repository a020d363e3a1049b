package vip

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// rawWire is an AF_PACKET socket on one interface.
type rawWire struct {
	conn *packet.Conn
	link link
	buf  [2048]byte
}

// neighbourFilter lets only neighbour solicitations and advertisements
// through, so that a busy interface's traffic does not crowd them out.
var neighbourFilter = []bpf.Instruction{
	bpf.LoadAbsolute{Off: etherLen + 6, Size: 1},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: protoICMPv6, SkipTrue: 4},
	bpf.LoadAbsolute{Off: etherLen + ip6Len, Size: 1},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: ndSolicit, SkipTrue: 1},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: ndAdvertise, SkipTrue: 1},
	bpf.RetConstant{Val: 2048},
	bpf.RetConstant{Val: 0},
}

func (linux) listen(l link, v6 bool, ips []netip.Addr) (wire, error) {
	proto, cfg := unix.ETH_P_ARP, &packet.Config{}
	if v6 {
		proto = unix.ETH_P_IPV6
		filter, err := bpf.Assemble(neighbourFilter)
		if err != nil {
			return nil, err
		}
		cfg.Filter = filter
	}
	conn, err := packet.Listen(l.hardware(), packet.Raw, proto, cfg)
	if err != nil {
		return nil, fmt.Errorf("open a packet socket on %s: %w", l.Name, err)
	}
	w := &rawWire{conn: conn, link: l}
	if v6 {
		// Another's probe goes to the solicited-node group, which this
		// interface listens to only once it has the address.
		for _, ip := range ips {
			if err := conn.JoinGroup(multicastMAC(solicitedNode(ip))); err != nil {
				return nil, errors.Join(fmt.Errorf("listen for probes for %s on %s: %w", ip, l.Name, err), conn.Close())
			}
		}
	}
	return w, nil
}

func (linux) send(l link, frames ...[]byte) error {
	// Protocol 0: nothing is ever received, so nothing queues up.
	conn, err := packet.Listen(l.hardware(), packet.Raw, 0, nil)
	if err != nil {
		return fmt.Errorf("open a packet socket on %s: %w", l.Name, err)
	}
	w := &rawWire{conn: conn, link: l}
	return errors.Join(w.send(frames...), w.close())
}

func (w *rawWire) send(frames ...[]byte) error {
	// A full transmit queue must not hold up a takeover.
	if err := w.conn.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	for _, f := range frames {
		if _, err := w.conn.WriteTo(f, &packet.Addr{HardwareAddr: f[:6]}); err != nil {
			return fmt.Errorf("send on %s: %w", w.link.Name, err)
		}
	}
	return nil
}

func (w *rawWire) recv(deadline time.Time) ([]byte, error) {
	if err := w.conn.SetReadDeadline(deadline); err != nil {
		return nil, err
	}
	n, _, err := w.conn.ReadFrom(w.buf[:])
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, os.ErrDeadlineExceeded
	}
	if err != nil {
		return nil, fmt.Errorf("receive on %s: %w", w.link.Name, err)
	}
	return w.buf[:n], nil
}

func (w *rawWire) close() error { return w.conn.Close() }
