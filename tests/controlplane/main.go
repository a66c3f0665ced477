// Command controlplane is a Kubernetes control plane in one multi-call binary.
//
// It answers to the name it is called by: etcd, kube-apiserver or
// kube-controller-manager. Mandate's demo, tests and benchmarks start it on free
// loopback ports, so that everything they show is shown on the real thing.
package main

import (
	"fmt"
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
