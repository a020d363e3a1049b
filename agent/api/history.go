package api

// PruneResult is what `understudy prune` did, or with DryRun would do.
type PruneResult struct {
	Service     string   `json:"service"`
	DryRun      bool     `json:"dry_run"`
	Generations []string `json:"generations"` // that go
	Kept        int      `json:"kept"`        // generations
	Packs       int      `json:"packs"`
	Bytes       int64    `json:"bytes"` // of what goes
}
