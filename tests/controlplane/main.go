// Command controlplane is a Kubernetes control plane in one multi-call binary.
//
// It answers to the name it is called by: etcd, kube-apiserver or
// kube-controller-manager. Mandate's demo, tests and benchmarks start it on free
// loopback ports, so that everything they show is shown on the real thing.
package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	kcm "k8s.io/kubernetes/cmd/kube-controller-manager/app"
)

func main() {
	if os.Getenv("CONTROLPLANE_EXIT_WITH_STDIN") == "1" {
		go exitWithStdin()
	}
	switch name := filepath.Base(os.Args[0]); name {
	case "etcd":
		etcdmain.Main(os.Args)
	case "kube-apiserver":
		os.Exit(cli.Run(apiserver.NewAPIServerCommand()))
	case "kube-controller-manager":
		os.Exit(cli.Run(kcm.NewControllerManagerCommand()))
	default:
		fmt.Fprintf(os.Stderr, "controlplane: call me etcd, kube-apiserver or kube-controller-manager, not %q\n", name)
		os.Exit(2)
	}
}

// exitWithStdin ends this process when standard input closes. The starter holds
// the other end of that pipe, and the kernel closes it however the starter dies,
// kill -9 included: a test run leaves nothing behind. A starter that wants the
// control plane to outlive it writes "keep" first.
//
// The end is abrupt on purpose. What the API server does on SIGTERM is drain, which
// without its etcd is a minute of retries, and nothing here is worth saving.
func exitWithStdin() {
	word, _ := io.ReadAll(io.LimitReader(os.Stdin, 64))
	if string(word) != "keep\n" {
		os.Exit(1)
	}
}
