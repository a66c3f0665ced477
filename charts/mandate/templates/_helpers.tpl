{{/* What JSON Schema cannot say: included by every file whose objects depend on it. */}}
{{- define "mandate.check" -}}
{{- $guarded := .Values.guardedNamespaces -}}
{{- if has .Release.Namespace $guarded -}}
{{- fail (printf "guardedNamespaces: `%s` is Mandate's own namespace and cannot be guarded: with the webhook down, its own pods could not start" .Release.Namespace) -}}
{{- end -}}
{{- range $guarded -}}
{{- if hasPrefix "kube-" . -}}
{{- fail (printf "guardedNamespaces: `%s` belongs to Kubernetes and cannot be guarded: with Mandate down, the cluster could not heal itself" .) -}}
{{- end -}}
{{- end -}}
{{- if hasPrefix "kube-" .Release.Namespace -}}
{{- fail (printf "`%s` belongs to Kubernetes and cannot be Mandate's; choose one of its own (--namespace mandate-system --create-namespace)" .Release.Namespace) -}}
{{- end -}}
{{- range .Values.secretKeys -}}
{{- if not (has .namespace $guarded) -}}
{{- fail (printf "secretKeys: Secret `%s` lies in namespace `%s`, which is not guarded; add the namespace to guardedNamespaces" .secretName .namespace) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "mandate.labels" -}}
app.kubernetes.io/name: mandate
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "mandate.selector" -}}
app.kubernetes.io/name: mandate
app.kubernetes.io/component: {{ . }}
{{- end -}}

{{- define "mandate.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The user name of the controller's ServiceAccount. */}}
{{- define "mandate.controller" -}}
system:serviceaccount:{{ .Release.Namespace }}:mandate-controller
{{- end -}}

{{/* What the controller may do in the whole cluster, but for the ceiling. */}}
{{- define "mandate.worksEverywhere" -}}
# Its work; patch takes the finalizer off, delete ends the history of finished tasks.
- apiGroups: [mandate.dev]
  resources: [agenttasks]
  verbs: [get, list, watch, patch, delete]
- apiGroups: [mandate.dev]
  resources: [agenttasks/status]
  verbs: [patch]
# What tasks are judged by.
- apiGroups: [mandate.dev]
  resources: [agentidentities, taskscopes, agentpolicies, clusteragentpolicies]
  verbs: [get, list, watch]
- apiGroups: [mandate.dev]
  resources: [agentidentities/status]
  verbs: [patch]
# What stands against policies, and what waivers are used for.
- apiGroups: [mandate.dev]
  resources: [policywaivers]
  verbs: [get, list, watch]
- apiGroups: [mandate.dev]
  resources: [agentpolicies/status, clusteragentpolicies/status, policywaivers/status]
  verbs: [patch]
# To see when something it made is gone or changed. Reading shows no credential.
- apiGroups: [""]
  resources: [serviceaccounts]
  verbs: [get, list, watch]
- apiGroups: [rbac.authorization.k8s.io]
  resources: [roles, rolebindings]
  verbs: [get, list, watch]
# Does the person a task acts for hold this themselves? Asking changes nothing.
- apiGroups: [authorization.k8s.io]
  resources: [subjectaccessreviews]
  verbs: [create]
# To tell people what happened to their tasks.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end -}}

{{/* What the controller may do in each guarded namespace, but for the ceiling. */}}
{{- define "mandate.worksInGuarded" -}}
- apiGroups: [""]
  resources: [serviceaccounts]
  verbs: [create, patch, delete]
- apiGroups: [""]
  resources: [serviceaccounts/token]
  verbs: [create]
# Of these the API server lets it write no right that it does not hold, and the policy on
# its Roles none that it holds for its own work: what is left is the ceiling.
- apiGroups: [rbac.authorization.k8s.io]
  resources: [roles, rolebindings]
  verbs: [create, patch, delete]
# Never get, list or watch: it writes credentials and reads none.
- apiGroups: [""]
  resources: [secrets]
  verbs: [create, patch, delete]
# To find what stands against the policies. A pod's spec shows no Secret.
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
# To report it, in the one report of this name, to whichever of the two is installed.
- apiGroups: [openreports.io]
  resources: [reports]
  resourceNames: [mandate]
  verbs: [get, create, patch]
- apiGroups: [wgpolicyk8s.io]
  resources: [policyreports]
  resourceNames: [mandate]
  verbs: [get, create, patch]
{{- end -}}

{{/* Arguments that both components take. */}}
{{- define "mandate.args" -}}
- --log-format={{ .Values.logs.format }}
- --log={{ .Values.logs.filter }}
- --namespace={{ .Release.Namespace }}
{{- range .Values.guardedNamespaces }}
- --guard={{ . }}
{{- end }}
- --admin=0.0.0.0:8081
{{- end -}}

{{/* Everything of a container that does not depend on what it does. */}}
{{- define "mandate.container" -}}
image: {{ include "mandate.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
livenessProbe:
  httpGet: {path: /livez, port: admin}
  periodSeconds: 10
  failureThreshold: 3
readinessProbe:
  httpGet: {path: /readyz, port: admin}
  periodSeconds: 5
  failureThreshold: 1
{{- if or .variables .Values.telemetry.otlp.endpoint }}
env:
  {{- range $name, $value := .variables }}
  - {name: {{ $name }}, value: {{ $value | quote }}}
  {{- end }}
  {{- include "mandate.telemetry" . }}
{{- end }}
{{- end -}}

{{/* Where traces and metrics go: OpenTelemetry's own variables. */}}
{{- define "mandate.telemetry" -}}
{{- with .Values.telemetry.otlp }}
{{- if .endpoint }}
  - {name: OTEL_EXPORTER_OTLP_ENDPOINT, value: {{ .endpoint | quote }}}
  {{- if not (has "traces" .signals) }}
  - {name: OTEL_TRACES_EXPORTER, value: none}
  {{- end }}
  {{- if not (has "metrics" .signals) }}
  - {name: OTEL_METRICS_EXPORTER, value: none}
  {{- end }}
  {{- if .headersSecret.name }}
  - name: OTEL_EXPORTER_OTLP_HEADERS
    valueFrom: {secretKeyRef: {name: {{ .headersSecret.name }}, key: {{ .headersSecret.key }}}}
  {{- end }}
  {{- if .caConfigMap }}
  - {name: OTEL_EXPORTER_OTLP_CERTIFICATE, value: /etc/mandate/otlp/ca.crt}
  {{- end }}
  - {name: OTEL_TRACES_SAMPLER, value: {{ .sampler }}}
  - {name: OTEL_TRACES_SAMPLER_ARG, value: {{ .samplerArg | toString | quote }}}
  - {name: OTEL_METRIC_EXPORT_INTERVAL, value: {{ .metricsIntervalMillis | int64 | toString | quote }}}
  - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
  - name: OTEL_RESOURCE_ATTRIBUTES
    value: {{ include "mandate.resourceAttributes" $ | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "mandate.resourceAttributes" -}}
k8s.namespace.name={{ .Release.Namespace }},k8s.pod.name=$(POD_NAME)
{{- range $name, $value := .Values.telemetry.otlp.resourceAttributes -}}
,{{ $name }}={{ $value }}
{{- end -}}
{{- end -}}

{{/* Whether the collector's authority is mounted, and how. */}}
{{- define "mandate.telemetryMount" -}}
{{- if and .Values.telemetry.otlp.endpoint .Values.telemetry.otlp.caConfigMap -}}
- {name: otlp-ca, mountPath: /etc/mandate/otlp, readOnly: true}
{{- end }}
{{- end -}}

{{- define "mandate.telemetryVolume" -}}
{{- if and .Values.telemetry.otlp.endpoint .Values.telemetry.otlp.caConfigMap -}}
- name: otlp-ca
  configMap: {name: {{ .Values.telemetry.otlp.caConfigMap }}, items: [{key: ca.crt, path: ca.crt}]}
{{- end }}
{{- end -}}

{{- define "mandate.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* A token of one hour. The one that Kubernetes injects by default would be good for a year. */}}
{{- define "mandate.token" -}}
- name: kubernetes-api
  projected:
    sources:
      - serviceAccountToken: {path: token, expirationSeconds: 3600}
      - configMap: {name: kube-root-ca.crt, items: [{key: ca.crt, path: ca.crt}]}
      - downwardAPI: {items: [{path: namespace, fieldRef: {fieldPath: metadata.namespace}}]}
{{- end -}}

{{- define "mandate.placement" -}}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
