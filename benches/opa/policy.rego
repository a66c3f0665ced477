# The question of benches/authorize.rs as somebody who knows OPA would put it: facts in data and
# looked up by their keys, and rules that begin with an equality which OPA's index finds.
#
# What it leaves out, Mandate does: it verifies no token, remembers nothing (what a task has done
# stands in the data, unchanged), compares no exact decimals, and writes no log.
package mandate

answer := {"decision": decision, "reasons": reasons}

default decision := false

decision if {
	alive
	typed
	granted
	count(denials) == 0
}

reasons := [sprintf("`TaskScope %s/%s#%s` grants it", [task.namespace, task.scope, input.resource.id])] if decision

reasons := [reason | some reason in denials] if {
	not decision
	count(denials) > 0
}

reasons := ["the scope does not grant it"] if {
	not decision
	count(denials) == 0
}

task := data.tasks[input.subject.id]

tool := data.tools[input.resource.id]

grant := data.scopes[task.namespace][task.scope][input.resource.id]

arguments := input.action.properties

history := data.histories[input.subject.id]

alive if {
	task.phase == "Active"
	not task.ending
	time.now_ns() < task.deadline
	data.agents[task.agent].standing == "Good"
}

# Arguments have the types that the tool's owner declared, and no others are there.
typed if not tool.arguments

typed if {
	every name, value in arguments {
		fits(tool.arguments[name].type, value)
	}
	every name, argument in tool.arguments {
		present(name, argument)
	}
}

fits("string", value) if is_string(value)

fits("decimal", value) if is_number(value)

fits("integer", value) if is_number(value)

present(name, _) if arguments[name]

present(_, argument) if not argument.required

granted if {
	tool.classification <= grant.classification
	every name, bound in grant.arguments {
		arguments[name] <= bound.max
	}
}

denials contains "ClusterAgentPolicy guard#no-large-posting: nobody posts so much without a person" if {
	tool.server == "ledger"
	tool.name == "post"
	arguments.amount >= 5000
}

denials contains "ClusterAgentPolicy guard#no-export-after-outside-text: what strangers wrote may have asked for it" if {
	tool.effect == "export"
	history.untrusted
}

denials contains "ClusterAgentPolicy guard#nothing-leaves-after-confidential-data: this task has read confidential data" if {
	tool.effect in {"write", "export"}
	tool.domain != task.namespace
	history.highest_read >= 2
}

# The other policies, which the bench writes, follow in files of their own:
#
#     denials contains "…" if {
#         input.resource.id == "team-3/ledger/tool-317"
#         input.action.properties.amount >= 100
#     }
