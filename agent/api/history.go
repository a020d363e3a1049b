package api

import "time"

// PruneResult is what `understudy prune` did, or with DryRun would do.
type PruneResult struct {
	Service     string   `json:"service"`
	DryRun      bool     `json:"dry_run"`
	Generations []string `json:"generations"` // that go
	Kept        int      `json:"kept"`        // generations
	Packs       int      `json:"packs"`
	Bytes       int64    `json:"bytes"` // of what goes
}

// History is what a node keeps of a service.
type History struct {
	Service     string       `json:"service"`
	Head        string       `json:"head"`        // the generation committed last
	Applied     string       `json:"applied"`     // what the live data is at; "none": it is being written
	Generations []Generation `json:"generations"` // oldest first
	Diverged    []Generation `json:"diverged"`    // archived: written by a former active, received by nobody
	StoreBytes  int64        `json:"store_bytes"` // on disk, of all of it
}

// Generation is one kept state of a service's data.
type Generation struct {
	ID         string    `json:"id"` // of an archived one: its name
	Parent     string    `json:"parent"`
	At         time.Time `json:"at"`          // committed here, this node's clock
	CapturedAt time.Time `json:"captured_at"` // the active's clock
	Entries    int       `json:"entries"`     // files, directories and the rest
	Size       int64     `json:"size"`        // bytes, of the files
	Changed    int       `json:"changed"`     // entries that differ from the generation before it in the list
	New        int64     `json:"new"`         // bytes that the one before has not
	Head       bool      `json:"head,omitempty"`
	Applied    bool      `json:"applied,omitempty"`
	Final      bool      `json:"final,omitempty"`   // captured in a hand-over, with the containers stopped
	Loose      bool      `json:"loose,omitempty"`   // not of one instant: captured with consistency=none
	Pinned     string    `json:"pinned,omitempty"`  // why
	Suspect    string    `json:"suspect,omitempty"` // why: it looks like an attack on the data
}

// Diff is how one generation differs from another.
type Diff struct {
	Service string         `json:"service"`
	From    string         `json:"from"`
	To      string         `json:"to"`
	Counts  map[string]int `json:"counts"` // of changes, by kind
	New     int64          `json:"new"`    // bytes that From has not
	Changes []DiffChange   `json:"changes"`
}

// DiffChange is a path that differs. A path that is not UTF-8 is written as a Go
// string literal, in quotes.
type DiffChange struct {
	Kind   string `json:"kind"` // added, removed, changed, metadata, renamed
	Volume string `json:"volume"`
	Path   string `json:"path"`
	From   string `json:"from,omitempty"` // of a renamed one
	Before int64  `json:"before"`         // bytes
	After  int64  `json:"after"`
	New    int64  `json:"new"` // bytes that were not there before
}

// RestoreRequest asks for a service to be taken back in place.
type RestoreRequest struct {
	Generation string `json:"generation"` // empty: a restore that is armed is forgotten
}

// RestoreResult says what a restore did.
type RestoreResult struct {
	Service    string   `json:"service"`
	Generation string   `json:"generation"`         // that was asked for
	To         string   `json:"to,omitempty"`       // directory
	As         string   `json:"as,omitempty"`       // the new generation that has its content
	Before     string   `json:"before,omitempty"`   // the generation, pinned, that has what was there
	Armed      bool     `json:"armed,omitempty"`    // it takes effect when this node is promoted
	Warnings   []string `json:"warnings,omitempty"` // what could not be written as it was
}

// ScrubRequest asks about the verification of a service, and for more.
type ScrubRequest struct {
	Begin  bool `json:"begin,omitempty"`   // a round now
	GiveUp bool `json:"give_up,omitempty"` // what no node has any more is not asked for again
}

// ScrubStatus is how the verification of a service's store and live data stands on a node.
type ScrubStatus struct {
	Service string    `json:"service"`
	Running bool      `json:"running"`
	Began   time.Time `json:"began"` // the round under way, or the last; zero: never
	Ended   time.Time `json:"ended"` // zero: it is under way, or was interrupted
	Done    int64     `json:"done"`  // bytes read in it
	Total   int64     `json:"total"` // bytes to read in it, about
	Packs   int       `json:"packs"`
	Live    bool      `json:"live"`    // the live data was verified in it; on the active node it cannot be
	LiveAt  time.Time `json:"live_at"` // when it was last
	Lacks   int       `json:"lacks"`   // chunks and generations that are lost here and have not come again
	Found   []Damage  `json:"found"`   // of all rounds, the newest first
	Error   string    `json:"error,omitempty"`
}

// Damage is something that was not what had been written.
type Damage struct {
	At     time.Time `json:"at"`
	What   string    `json:"what"`
	Repair string    `json:"repair"`
	Mended bool      `json:"mended"`
}
