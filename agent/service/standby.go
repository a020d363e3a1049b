package service

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/replication"
)

// calm is how long after a hand-over the containers are not set up again here: the
// node that takes over may share a disk or processors with this one.
const calm = 2 * time.Second

// pollEvery is how often a standby looks for a commit whose poke was lost.
const pollEvery = 500 * time.Millisecond

// runStandby keeps the replica ready to start: applied to the head, images
// loaded, containers created and set up.
func (s *Service) runStandby(ctx context.Context, quit, wake <-chan struct{}) {
	inspected := time.Now()
	for ctx.Err() == nil {
		if s.containersChanged.Swap(false) || time.Since(inspected) > inspectEvery {
			s.checkPrepared(ctx)
			inspected = time.Now()
		}
		if err := s.standbyOnce(ctx); err != nil && ctx.Err() == nil {
			s.replicationProblem(err)
		} else if err == nil {
			s.replicationProblem(nil)
		}
		if time.Since(s.handedOver) > calm {
			s.assertScore(ctx)
		}
		s.noteLacks()
		s.noteSuspects()
		s.noteSpace()
		s.mendOthers(ctx)
		if err := s.Replica.Prune(); err != nil {
			s.log.Warn("old generations cannot be pruned", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-quit:
			return
		case <-wake:
		case <-time.After(pollEvery):
		}
	}
}

func (s *Service) standbyOnce(ctx context.Context) error {
	s.hear(ctx)
	s.keepFreshness()
	s.giveNewest(ctx)
	if err := s.turnRound(ctx); err != nil {
		return err
	}
	imagesErr := s.loadImages(ctx)
	def, head, err := s.headDefinition()
	if err != nil || head.IsZero() {
		return errors.Join(err, imagesErr, s.keepReserved(ctx))
	}
	if err := errors.Join(s.takeMembers(def), s.archiveOwn(ctx, def)); err != nil {
		return err
	}
	// Before what is prepared: after that it may not be known any more what the trees are at.
	err = s.keepForeign(ctx)
	if ctx.Err() == nil {
		s.unreadyBecause("what was written outside the cluster", err)
	}
	if err != nil {
		return err
	}
	var prepErr error
	if time.Since(s.handedOver) > calm {
		prepErr = s.prepare(ctx, def)
	}
	// Data that can be applied is applied also where a container cannot be made yet.
	applyErr := s.follow(ctx)
	if ctx.Err() == nil {
		s.unreadyBecause("the live tree", applyErr)
	}
	if applyErr == nil && prepErr == nil {
		s.mu.Lock()
		s.complete = true
		s.mu.Unlock()
	}
	return errors.Join(applyErr, prepErr, imagesErr, s.keepReserved(ctx))
}

// keepReserved holds a term ready above every term that is known to be in use.
//
// Right after a hand-over it waits: the node that takes over holds the highest
// reservation, and one above it would make it reserve anew on its critical path.
func (s *Service) keepReserved(ctx context.Context) error {
	if time.Since(s.handedOver) < calm {
		return nil
	}
	known, err := s.Replica.Term()
	if err != nil {
		return err
	}
	if active, ok := s.activePeer(); ok {
		known = max(known, active.Term)
	}
	if s.snapshot().Reserved > known {
		return nil
	}
	return s.reserve(ctx)
}

// turnRound makes a former active take the new active's history: what it
// wrote unseen is archived first (invariant 5).
func (s *Service) turnRound(ctx context.Context) error {
	active, ok := s.activePeer()
	if !ok {
		return nil
	}
	head, err := s.Replica.Head()
	if err != nil || head.IsZero() || active.Term <= head.Term {
		return err
	}
	base, err := parting(head, active)
	if err != nil || head.Compare(base) <= 0 {
		return err
	}
	if s.snapshot().Newest { // not any more: the other history is the one that goes on
		if err := s.persist(func(r *record) { r.Newest = false }); err != nil {
			return err
		}
	}
	archived, err := s.Replica.Realign(ctx, base)
	if err != nil {
		return fmt.Errorf("service %s: the history of %s cannot be turned round to term %d: %w", s.name, s.Node, active.Term, err)
	}
	for _, name := range archived {
		s.decide(api.EventDiverged, head.Term, "what this node wrote after generation %s and nobody had received is archived as %[2]s (understudy restore %[4]s %[2]s --to DIR); term %[3]d of the new active goes on from %[1]s", base, name, active.Term, s.name)
	}
	return nil
}

// parting is the generation up to which our history, that leads to head, can be the active's: what
// its term began from, or, where that is not the next after ours, with what ours ended there.
func parting(head replication.ID, active api.ServiceStatus) (replication.ID, error) {
	base, err := replication.ParseID(active.Base)
	if err != nil || head.Compare(base) > 0 {
		return base, err
	}
	if seq, ok := active.Ends[head.Term]; ok {
		return replication.ID{Term: head.Term, Seq: seq}, nil
	}
	// A term that is not among those around it is not in its history at all.
	terms := slices.Sorted(maps.Keys(active.Ends))
	at, _ := slices.BinarySearch(terms, head.Term)
	if at == 0 || head.Term >= base.Term {
		return base, nil
	}
	return replication.ID{Term: terms[at-1], Seq: active.Ends[terms[at-1]]}, nil
}

// archiveOwn archives the data that this node had of its own, in volumes of the
// same names, before another node's first generation replaces it: what the origin
// had that was not chosen, or what somebody else put there.
func (s *Service) archiveOwn(ctx context.Context, def Definition) error {
	if s.snapshot().Adopted {
		return nil
	}
	paths, err := s.Runtime.VolumePaths(ctx, def.Volumes)
	if err != nil {
		return err
	}
	for name, path := range paths {
		if entries, err := os.ReadDir(path); err == nil && len(entries) == 0 {
			delete(paths, name)
		}
	}
	if len(paths) > 0 {
		name, err := s.Replica.ArchiveTree(ctx, replication.SealRequest{Roots: paths, Definition: def.Bytes, Images: def.Images})
		if err != nil {
			return err
		}
		if name != "" {
			s.decide(api.EventDiverged, 0, "the data that %[1]s had in volumes of this service before it became a standby is archived as %[2]s (understudy restore %[3]s %[2]s --to DIR); it is replaced by the active node's", s.Node, name, s.name)
		}
	}
	return s.persist(func(r *record) {
		r.Origin, r.Adopted = false, true
		r.Roots = maps.Clone(r.Roots)
		if r.Roots == nil {
			r.Roots = map[string]string{}
		}
		for name := range paths {
			r.Roots[name] = rootToFill // it is replaced now
		}
	})
}

// follow brings a standby's live tree to where it is to be.
func (s *Service) follow(ctx context.Context) error {
	to, err := s.target()
	if err != nil || to.IsZero() {
		return err
	}
	return s.applyTo(ctx, to)
}

// applyHead brings the live tree to the committed head.
func (s *Service) applyHead(ctx context.Context) error {
	to, err := s.Replica.Head()
	if err != nil || to.IsZero() {
		return err
	}
	return s.applyTo(ctx, to)
}

func (s *Service) applyTo(ctx context.Context, to replication.ID) error {
	m, err := s.Replica.HeadManifest()
	if err != nil || m == nil {
		return err
	}
	var names []string
	for _, v := range m.Volumes {
		names = append(names, v.Name)
	}
	paths, err := s.Runtime.VolumePaths(ctx, names)
	if err != nil {
		return err
	}
	for _, n := range names {
		if _, ok := paths[n]; !ok {
			return api.Errorf(api.KindGeneric, "see understudy log", "volume %s of service %s does not exist on %s yet", n, s.name, s.Node)
		}
	}
	now := rootsAt(paths)
	if err := s.keepOther(ctx, m, paths, now); err != nil {
		return err
	}
	// Before: what comes to be at a path meanwhile is another.
	for name, id := range now {
		if was, known := s.snapshot().Roots[name]; known && was != id { // at no generation
			if err := s.Replica.Recheck(); err != nil {
				return err
			}
			break
		}
	}
	if err := s.noteRoots(now); err != nil {
		return err
	}
	if err := s.Replica.ApplyAt(ctx, to, paths); err != nil {
		return err
	}
	if !maps.Equal(now, rootsAt(paths)) {
		return errors.Join(s.Replica.Recheck(), api.Errorf(api.KindGeneric, "nothing need be done: it is applied again", "a directory of service %s was replaced on %s while generation %s was applied", s.name, s.Node, to))
	}
	return nil
}

// imagesEvery is how often Podman is asked for its images without an occasion.
const imagesEvery = 10 * time.Second

// loadImages loads what arrived, and tells senders what need not be sent.
func (s *Service) loadImages(ctx context.Context) error {
	if len(s.Replica.PendingImages()) == 0 && time.Since(s.imagesAt) < imagesEvery {
		if s.have != nil {
			s.noteImages(s.have) // the head may be another
		}
		return nil
	}
	s.imagesAt = time.Now()
	// First: Podman may not even list its images while one of them is damaged.
	broken, repairErr := s.repairImages(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	images, layers, err := s.Runtime.Images(ctx)
	if err != nil {
		return errors.Join(repairErr, err)
	}
	loaded := false
	for _, path := range s.Replica.PendingImages() {
		id, err := s.Runtime.LoadImage(ctx, path)
		if ctx.Err() != nil {
			return ctx.Err() // it stays for the next time
		}
		// A refused archive is dropped: the sender sees what is missing and sends it whole.
		s.Replica.DropImage(path)
		if err != nil {
			s.log.Warn("an image archive cannot be loaded; it will be sent whole", "error", err)
			s.whole = true
			continue
		}
		s.whole = false
		s.decide(api.EventReplication, 0, "image %s was loaded", id)
		loaded = true
	}
	if loaded {
		if images, layers, err = s.Runtime.Images(ctx); err != nil {
			return err
		}
		s.mu.Lock()
		s.prepared = ""
		s.mu.Unlock()
	}
	s.noteImages(without(images, broken))
	if s.whole {
		layers = nil // a layer that should be here and could not be used: send all of them
	}
	return errors.Join(repairErr, s.Replica.SetHave(images, layers))
}

// noteImages keeps which of the images that the head needs are here.
func (s *Service) noteImages(have []string) {
	m, err := s.Replica.HeadManifest()
	if err != nil || m == nil {
		return
	}
	var present, missing []string
	for _, id := range m.Images {
		if slices.Contains(have, id) {
			present = append(present, id)
		} else {
			missing = append(missing, id)
		}
	}
	s.mu.Lock()
	s.have, s.present, s.missing = append([]string{}, have...), present, missing
	s.mu.Unlock()
}

// hear keeps how fresh the head is, by what the active says of itself. Times of
// the peer's clock are brought to ours by the measured offset.
func (s *Service) hear(ctx context.Context) {
	active, node, ok := s.activeNode()
	promoted := !ok && s.promotedElsewhere(ctx)
	m, err := s.Replica.HeadManifest()
	if err != nil || m == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	offset := time.Duration(0)
	if !ok && promoted {
		s.heardAt = s.Now() // then max-rpo judges how old the replica gets
	}
	if ok {
		s.cut = ""
		s.heardAt = s.Now().Add(-time.Duration(node.SeenAgo))
		offset = time.Duration(node.ClockOffset)
	}
	fresh := m.CapturedAt.Add(-offset)
	if ok && active.Committed == m.ID.String() && active.FreshAt != 0 {
		fresh = time.Unix(0, active.FreshAt).Add(-offset)
	}
	// A new head may be older than what gossip said of the one before; never go back.
	if fresh.After(s.freshAt) || m.ID != s.freshOf {
		s.freshAt, s.freshOf = fresh, m.ID
	}
}

// freshnessEvery is how often a standby makes durable how fresh it is: max-rpo must
// be judged also after the agent was restarted while the active is gone.
const freshnessEvery = 15 * time.Second

// keepFreshness makes what hear learned durable, from time to time.
func (s *Service) keepFreshness() {
	s.mu.Lock()
	fresh, heard := s.freshAt, s.heardAt
	due := heard.Sub(time.Unix(0, s.rec.HeardAt)) > freshnessEvery
	s.mu.Unlock()
	if !due || fresh.IsZero() {
		return
	}
	if err := s.persist(func(r *record) { r.FreshAt, r.HeardAt = fresh.UnixNano(), heard.UnixNano() }); err != nil {
		s.log.Warn("how fresh the replica is cannot be recorded", "error", err)
	}
}

// giveNewest sends what this node wrote last as the active and no other node has:
// until it has arrived, no other node may be promoted while this one lives.
func (s *Service) giveNewest(ctx context.Context) {
	if !s.snapshot().Newest {
		return
	}
	peer, _ := s.shipFirst(ctx)
	if peer == "" {
		return
	}
	if err := s.persist(func(r *record) { r.Newest, r.Clean = false, true }); err != nil {
		s.log.Error("the record cannot be written", "error", err)
		return
	}
	s.decide(api.EventReplication, s.snapshot().Term, "%s has now what was written here last", peer)
}

// runNewest does so on a node where the service is stopped.
func (s *Service) runNewest(ctx context.Context, quit, wake <-chan struct{}) {
	for ctx.Err() == nil && s.snapshot().Newest {
		s.giveNewest(ctx)
		select {
		case <-ctx.Done():
		case <-quit:
			return
		case <-wake:
		case <-time.After(2 * pollEvery):
		}
	}
}

// patience is how long something must go wrong before it stands against a takeover:
// a slow answer under load must not leave the cluster without a candidate.
const patience = 20 * time.Second

// grievance is something that goes wrong on a standby.
type grievance struct {
	since time.Time
	what  string
}

// unreadyBecause keeps, or clears, a reason why a takeover here would fail.
func (s *Service) unreadyBecause(about string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		delete(s.unready, about)
		return
	}
	g, ok := s.unready[about]
	if !ok {
		g.since = time.Now()
	}
	g.what = err.Error()
	s.unready[about] = g
}

// pacemakerEvery is how often Pacemaker is asked who is active while gossip does not say.
const pacemakerEvery = 10 * time.Second

// promotedElsewhere asks Pacemaker whether another node is active, while gossip
// says of none: the agents' network can be cut where the cluster's is not.
func (s *Service) promotedElsewhere(ctx context.Context) bool {
	if time.Since(s.askedAt) > pacemakerEvery {
		s.askedAt = time.Now()
		node, err := s.Cluster.Promoted(ctx, s.name)
		s.elsewhere = ""
		if err == nil && node != s.Node {
			s.elsewhere = node
		}
		// No reason against a takeover: an active node that has lost its power looks
		// just like this until Pacemaker has noticed, and then it wants our score.
		cut := ""
		if s.elsewhere != "" {
			cut = fmt.Sprintf("no gossip comes from %s, which Pacemaker says is active: open the gossip port between the agents", s.elsewhere)
		}
		s.mu.Lock()
		s.cut = cut
		s.mu.Unlock()
	}
	return s.elsewhere != ""
}
