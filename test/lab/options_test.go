package lab

import "testing"

func TestOptions(t *testing.T) {
	for _, o := range []Options{
		{Name: "../x"},
		{Name: "UPPER"},
		{Name: "much-too-long-a-name"},
		{Nodes: []string{"n1", "n1"}},
		{Nodes: []string{"client"}},
		{Nodes: []string{"n100"}},
		{FS: "zfs"},
		{DiskSize: 1},
	} {
		if _, err := Up(t.Context(), o); err == nil {
			t.Errorf("%+v is accepted", o)
		}
	}
}
