// Package e2e tests Understudy on real clusters: the lab's nodes, set up as README
// tells a user to (test/stack), with fencing that cuts power. `make e2e` runs it;
// the tests need root, the build tag lab, and the package that `make package` builds.
//
// One lab carries almost everything: [TestCluster] runs its steps on it in order,
// each from a cluster at rest to a cluster at rest. A step says which invariant of
// the design or which promise to the user it shows. When a step fails, the logs of
// all nodes are in build/e2e/STEP and the next step starts from a repaired cluster.
//
// To look at a lab that a test leaves, or to repeat one step on it without setting
// up a lab each time:
//
//	build/lab up --name dev --cluster --deb build/understudy_*_amd64.deb
//	build/demo-run --set-up --name dev
//	E2E_LAB=dev go test -tags '… lab' -run TestCluster/failover ./test/e2e
//
// Where things are: cluster_test.go has the steps and the lab under them;
// client_test.go is the client that writes and measures, truth_test.go what the
// machine sees of a node without asking anybody on it, ocf_test.go the resource
// agent run by hand. The other files are the steps by topic.
package e2e
