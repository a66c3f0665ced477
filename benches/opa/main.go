// What Mandate is measured beside: Open Policy Agent, as itself and as a library.
//
//	opa run --server …      OPA's own command, unchanged
//	opa prepared RUN.json   one prepared query, asked again and again in this process
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/open-policy-agent/opa/cmd"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
)

// order says what to ask of what.
type order struct {
	// Files of Rego and data.
	Paths []string `json:"paths"`
	// Asked in turn.
	Inputs []any `json:"inputs"`
	// How often in all.
	Rounds int `json:"rounds"`
	// Whether inputs are put into OPA's own form beforehand, which no server can do.
	Parsed bool `json:"parsed"`
}

// asked is what came of it.
type asked struct {
	Decisions int   `json:"decisions"`
	Permitted int   `json:"permitted"`
	CPU       int64 `json:"cpu_ns"`
	P50       int64 `json:"p50_ns"`
	P99       int64 `json:"p99_ns"`
}

func main() {
	if len(os.Args) == 3 && os.Args[1] == "prepared" {
		result, err := prepared(context.Background(), os.Args[2])
		if err == nil {
			err = json.NewEncoder(os.Stdout).Encode(result)
		}
		fail(err)
		return
	}
	fail(cmd.RootCommand.Execute())
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func prepared(ctx context.Context, path string) (*asked, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var run order
	if err := json.Unmarshal(text, &run); err != nil {
		return nil, err
	}
	query, err := rego.New(rego.Query("data.mandate.answer"), rego.Load(run.Paths, nil)).PrepareForEval(ctx)
	if err != nil {
		return nil, err
	}
	inputs := make([]rego.EvalOption, len(run.Inputs))
	for at, input := range run.Inputs {
		inputs[at] = rego.EvalInput(input)
		if run.Parsed {
			value, err := ast.InterfaceToValue(input)
			if err != nil {
				return nil, err
			}
			inputs[at] = rego.EvalParsedInput(value)
		}
	}
	result := &asked{}
	times := make([]int64, 0, run.Rounds)
	var before time.Duration
	// The first tenth only warms it up.
	for round := -run.Rounds / 10; round < run.Rounds; round++ {
		if round == 0 {
			before = cpu()
		}
		start := time.Now()
		answers, err := query.Eval(ctx, inputs[max(round, 0)%len(inputs)])
		took := time.Since(start)
		if err != nil {
			return nil, err
		}
		if round < 0 {
			continue
		}
		times = append(times, int64(took))
		answer, _ := answers[0].Expressions[0].Value.(map[string]any)
		if answer["decision"] == true {
			result.Permitted++
		}
	}
	result.CPU = int64(cpu() - before)
	result.Decisions = len(times)
	slices.Sort(times)
	result.P50, result.P99 = times[len(times)/2], times[len(times)*99/100]
	return result, nil
}

// cpu is the time this process used so far, with its garbage collection.
func cpu() time.Duration {
	var usage syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &usage) != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
