package wire

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/pkg/sftp"

	"github.com/understudy-ha/understudy/replication"
)

// Client is a connection to one peer's receiver. Its methods may be called from
// several goroutines, but a want (Missing) is one per service at a time.
//
// A call whose context ends closes the connection: there is no other way to
// stop waiting for a peer that may be dead. After an error that is
// ErrDisconnected, or after [Client.Done], dial again.
type Client struct {
	o    ClientOptions
	conn io.Closer    // what is under sftp; closing it ends everything
	sftp *sftp.Client // of the first lane: for all that is small
	send *lanes       // for files
	wg   sync.WaitGroup

	done  chan struct{} // closed with the connection
	once  sync.Once
	cause error // why; set before done is closed

	wanting sync.Mutex // guards the peer's one want

	mu      sync.Mutex // guards closing
	closing bool       // nothing is started any more
}

func newClient(o ClientOptions, conn io.Closer) *Client {
	return &Client{o: o, conn: conn, done: make(chan struct{})}
}

// NewClient speaks to a [Serve] at the other end of rw, without SSH: over a
// pipe, or through a program that makes the connection. Name and Logger are all
// it takes from o, and it has one lane.
func NewClient(ctx context.Context, rw io.ReadWriteCloser, o ClientOptions) (*Client, error) {
	o.setDefaults()
	c := newClient(o, rw)
	stop := context.AfterFunc(ctx, func() { c.fail(ctx.Err()) })
	defer stop()
	s, err := newSFTP(rw, rw)
	if err != nil {
		_ = c.Close()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("%s does not answer as a receiver: %w", c.o.Name, err)
	}
	one := &lane{sftp: s, gone: make(chan struct{})}
	c.wg.Go(func() { _ = s.Wait(); close(one.gone) })
	c.begin(one, nil)
	return c, nil
}

// newSFTP greets.
func newSFTP(out io.Reader, in io.WriteCloser) (*sftp.Client, error) {
	const inFlight = 64 // × 255 KiB: enough for 160 MB/s at 100 ms
	return sftp.NewClientPipe(out, in, sftp.MaxPacketUnchecked(maxPacket),
		sftp.UseConcurrentWrites(true), sftp.MaxConcurrentRequestsPerFile(inFlight))
}

// begin takes the first lane into use; more gives further ones, nil: there are none.
func (c *Client) begin(first *lane, more func(context.Context) (*lane, error)) {
	c.sftp = first.sftp
	c.send = newLanes(first, c.o.Lanes, more)
	c.wg.Go(func() {
		<-first.gone
		c.fail(io.EOF)
	})
}

// fail ends the connection, once, for a reason.
func (c *Client) fail(err error) {
	c.once.Do(func() {
		c.cause = err
		close(c.done)
		_ = c.conn.Close()
	})
}

// Done is closed when the connection is gone.
func (c *Client) Done() <-chan struct{} { return c.done }

// Close hangs up and waits for everything the client started. Calling it again
// does nothing.
func (c *Client) Close() error {
	c.fail(os.ErrClosed)
	c.mu.Lock()
	c.closing = true
	c.mu.Unlock()
	if c.sftp != nil {
		_ = c.sftp.Close()
	}
	c.wg.Wait()
	return nil
}

// spawn runs f on a goroutine that Close waits for; false: too late.
func (c *Client) spawn(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return false
	}
	c.wg.Go(f)
	return true
}

// do runs one operation under ctx and puts its error into words.
func (c *Client) do(ctx context.Context, op string, f func() error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: %s: %w", c.o.Name, op, err)
	}
	if err := c.o.Hook.At(op); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { c.fail(ctx.Err()) })
	err := f()
	stop()
	if err == nil {
		return nil
	}
	err = remote(c.o.Name, op, err)
	var r *Refusal
	if errors.As(err, &r) {
		return err
	}
	if errors.Is(err, ErrDisconnected) {
		c.fail(err) // sftp may know before its reader has seen it
	}
	select {
	case <-c.done:
		return fmt.Errorf("%s: %s: %w: %w", c.o.Name, op, ErrDisconnected, c.cause)
	default:
		return err
	}
}

// State asks where the peer stands with a service.
func (c *Client) State(ctx context.Context, service string) (replication.State, error) {
	var s replication.State
	err := c.do(ctx, "state of "+service, func() error {
		b, err := c.read("/"+service+"/state", maxState)
		if err == nil {
			s, err = parseState(b, service)
		}
		return err
	})
	return s, err
}

// read reads a small file whole.
func (c *Client) read(path string, most int64) ([]byte, error) {
	f, err := c.sftp.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := bounded{most: most}
	if _, err := f.WriteTo(&b); errors.Is(err, ErrTooLarge) { // many reads at a time: each is a round trip
		return nil, fmt.Errorf("%s: %w", path, err)
	} else if err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// bounded takes so many bytes and no more.
type bounded struct {
	bytes.Buffer
	most int64
}

func (b *bounded) Write(p []byte) (int, error) {
	if int64(b.Len()+len(p)) > b.most {
		return 0, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, b.most)
	}
	return b.Buffer.Write(p)
}

// write makes a small file.
func (c *Client) write(path string, b []byte) error {
	f, err := c.sftp.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return err
	}
	_, err = f.ReadFrom(bytes.NewReader(b))
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// Missing asks which of the chunks the peer has not got; the answer is in the
// order of hs, each once.
func (c *Client) Missing(ctx context.Context, service string, hs []replication.Hash) ([]replication.Hash, error) {
	c.wanting.Lock()
	defer c.wanting.Unlock()
	var all []replication.Hash
	for len(hs) > 0 {
		n := min(len(hs), maxWant)
		some, err := c.missing(ctx, service, hs[:n])
		if err != nil {
			return nil, err
		}
		all, hs = append(all, some...), hs[n:]
	}
	return all, nil
}

func (c *Client) missing(ctx context.Context, service string, hs []replication.Hash) ([]replication.Hash, error) {
	path := "/" + service + "/want"
	var b []byte
	err := c.do(ctx, "missing chunks of "+service, func() error {
		err := c.write(path, formatHashes(hs))
		if err == nil {
			b, err = c.read(path, int64(len(hs)*hashLine))
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	answer, err := parseHashes(bytes.NewReader(b), len(hs))
	if err != nil {
		return nil, fmt.Errorf("%s: missing chunks of %s: %w", c.o.Name, service, err)
	}
	lacks := make(map[replication.Hash]bool, len(answer))
	for _, h := range answer {
		lacks[h] = true
	}
	var out []replication.Hash
	for _, h := range hs { // nothing comes out that was not asked for
		if lacks[h] {
			out = append(out, h)
			delete(lacks, h)
		}
	}
	if len(lacks) > 0 {
		return nil, fmt.Errorf("%s: %w: it misses chunks of %s that nobody offered", c.o.Name, replication.ErrFormat, service)
	}
	return out, nil
}

// File is something to send: its content at Path, whose hash is Hash.
type File struct {
	Path string
	Hash replication.Hash
	Size int64 // bytes
	// Open opens what has the same content, and is faster to read. What then does not verify is
	// sent once more, from Path. nil: there is nothing.
	Open func() (Content, error)
}

// Content is a file that is sent.
type Content interface {
	io.ReaderAt
	io.Closer
}

func (p File) open(path bool) (Content, error) {
	if p.Open != nil && !path {
		return p.Open()
	}
	return os.Open(p.Path)
}

// PutPack sends a pack and returns when the peer has verified it and made it
// durable. A transfer that was cut before is gone on with. progress (may be
// nil) is told how many bytes of the file have been handed over so far, from
// other goroutines.
func (c *Client) PutPack(ctx context.Context, service string, p File, progress func(int64)) error {
	return c.put(ctx, "pack "+short(p.Hash)+" of "+service, p,
		packPath(service, dirIncoming, p.Hash), packPath(service, dirPacks, p.Hash), progress)
}

// PutImage is PutPack for an image archive; one that is there already is a success.
func (c *Client) PutImage(ctx context.Context, service string, p File, progress func(int64)) error {
	op, to := "image "+short(p.Hash)+" for "+service, imagePath(service, dirImages, p.Hash)
	there := false
	err := c.do(ctx, op, func() error {
		_, err := c.sftp.Stat(to)
		there = err == nil
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	if err != nil || there {
		return err
	}
	return c.put(ctx, op, p, imagePath(service, dirIncoming, p.Hash), to, progress)
}

// put uploads and renames. What an earlier attempt left is trusted for its
// size only, and p.Open for nothing; where the whole then does not verify, it is sent anew, once.
func (c *Client) put(ctx context.Context, op string, p File, from, to string, progress func(int64)) error {
	one, err := c.send.take(ctx, c.done)
	if err != nil {
		return fmt.Errorf("%s: %s: %w", c.o.Name, op, err)
	}
	defer c.send.give(one)
	resumed, err := c.attempt(ctx, one.sftp, op, p, from, to, true, progress)
	damaged := errors.Is(err, replication.ErrBadHash) || errors.Is(err, replication.ErrTruncated) ||
		errors.Is(err, replication.ErrFormat) || errors.Is(err, ErrOrder)
	if damaged && (resumed || p.Open != nil) {
		c.o.Logger.Info("what was sent does not fit together; sending it anew", "peer", c.o.Name, "file", from, "error", err)
		_, err = c.attempt(ctx, one.sftp, op, p, from, to, false, progress)
	}
	return err
}

func (c *Client) attempt(ctx context.Context, s *sftp.Client, op string, p File, from, to string, resume bool, progress func(int64)) (resumed bool, err error) {
	src, err := p.open(!resume)
	if err != nil {
		return false, fmt.Errorf("send %s: %w", op, err)
	}
	defer src.Close()
	err = c.do(ctx, op, func() error {
		var at int64
		flags := os.O_WRONLY | os.O_CREATE
		if resume {
			st, err := s.Stat(from)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			if err == nil && st.Size() <= p.Size {
				at = st.Size()
			}
		}
		if at == 0 {
			flags |= os.O_TRUNC
		}
		resumed = at > 0
		if err := stream(s, from, flags, io.NewSectionReader(src, at, p.Size-at), at, progress); err != nil {
			return err
		}
		if err := c.o.Hook.At("hand in " + from); err != nil {
			return err
		}
		return s.Rename(from, to)
	})
	return resumed, err
}

// stream writes r to a file from offset at on. The close is part of the
// answer: a receiver that took writes early says there whether they all fitted.
func stream(s *sftp.Client, path string, flags int, r *io.SectionReader, at int64, progress func(int64)) error {
	f, err := s.OpenFile(path, flags)
	if err != nil {
		return err
	}
	if _, err = f.Seek(at, io.SeekStart); err == nil {
		_, err = f.ReadFrom(&reporter{r: r, at: at, tell: progress})
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// reporter tells how far a reader got. Its Size is what pkg/sftp wants to know
// before it writes concurrently.
type reporter struct {
	r    *io.SectionReader
	at   int64
	tell func(int64)
}

func (p *reporter) Size() int64 { return p.r.Size() }

func (p *reporter) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	p.at += int64(n)
	if p.tell != nil && n > 0 {
		p.tell(p.at)
	}
	return n, err
}

// Commit sends an encoded manifest and commits it: when it returns nil the
// generation is the peer's head, durably. An answer that got lost is found out
// with State; committing the same again is a success.
func (c *Client) Commit(ctx context.Context, service string, id replication.ID, encoded []byte) error {
	from, to := manifestPath(service, dirIncoming, id), manifestPath(service, dirGenerations, id)
	begun := time.Now()
	err := c.do(ctx, "commit "+id.String()+" of "+service, func() error {
		if err := c.write(from, encoded); err != nil {
			return err
		}
		if err := c.o.Hook.At("hand in " + from); err != nil {
			return err
		}
		return c.sftp.Rename(from, to)
	})
	if err == nil {
		c.o.Logger.Debug("committed", "peer", c.o.Name, "service", service, "generation", id.String(), "took", time.Since(begun))
	}
	return err
}

// short is enough of a hash to find it in a log.
func short(h replication.Hash) string { return h.String()[:12] }
