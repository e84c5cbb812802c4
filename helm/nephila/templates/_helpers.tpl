{{- define "nephila.labels" -}}
app.kubernetes.io/name: nephila
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Immutable in workloads: never add to it. (dict "root" $ "component" "agent") */}}
{{- define "nephila.selector" -}}
app.kubernetes.io/name: nephila
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "nephila.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end -}}
{{- end }}

{{/* A generated file, with the accounts' names as they are in this release. (dict "root" $ "path" "policies/ipnodes.yaml") */}}
{{- define "nephila.generated" -}}
{{- $text := .root.Files.Get (printf "files/generated/%s" .path) -}}
{{- $text | replace "system:serviceaccount:nephila-system:" (printf "system:serviceaccount:%s:" .root.Release.Namespace) -}}
{{- end }}

{{/* "host:port" that a program listens on. (dict "root" $ "health" .Values.agent.health) */}}
{{- define "nephila.listen" -}}
{{- $host := .health.host -}}
{{- if and (not $host) (not .root.Values.monitoring.podMonitors.enabled) }}{{ $host = "127.0.0.1" }}{{ end -}}
{{ $host }}:{{ .health.port }}
{{- end }}

{{/* (dict "root" $ "health" .Values.agent.health "probe" "liveness"); the kubelet is on the same host. */}}
{{- define "nephila.httpGet" -}}
httpGet:
  path: /v1/runtime/{{ .probe }}
  port: health
  {{- if or .hostNetwork .health.host }}
  host: {{ .health.host | default "127.0.0.1" }}
  {{- end }}
{{- end }}

{{- define "nephila.env" -}}
- name: NODE_NAME
  valueFrom:
    fieldRef:
      fieldPath: spec.nodeName
{{- with .Values.api.host }}
- name: KUBERNETES_SERVICE_HOST
  value: {{ . | quote }}
{{- end }}
{{- with .Values.api.port }}
- name: KUBERNETES_SERVICE_PORT
  value: {{ . | quote }}
{{- end }}
{{- end }}

{{- define "nephila.agentSettings" -}}
{{- $fixed := dict "socket" "/run/nephila/nephila.sock" "stateDir" "/var/lib/nephila" "healthAddress" (include "nephila.listen" (dict "root" . "health" .Values.agent.health)) -}}
{{- if .Values.webhook.enabled }}{{ $_ := set $fixed "webhook" (dict "address" (printf ":%v" .Values.webhook.port)) }}{{ end -}}
{{- with .Values.spiderpoolConf }}{{ $_ := set $fixed "spiderpoolConf" (printf "/etc/nephila-spiderpool/%s" .) }}{{ end -}}
{{- toYaml (merge $fixed (deepCopy .Values.agent.settings)) -}}
{{- end }}

{{/* What the leader must know of the agents' settings comes from them. */}}
{{- define "nephila.leaderSettings" -}}
{{- $features := pick (.Values.agent.settings.features | default dict) "enableIPv4" "enableIPv6" "enableSpiderSubnet" "enableAutoPoolForApplication" -}}
{{- $fixed := dict "healthAddress" (include "nephila.listen" (dict "root" . "health" .Values.leader.health)) -}}
{{- if $features }}{{ $_ := set $fixed "applications" $features }}{{ end -}}
{{- with (.Values.agent.settings.lease | default dict).leaseS }}{{ $_ := set $fixed "reclaim" (dict "agentLeaseS" .) }}{{ end -}}
{{- if .Values.webhook.enabled }}{{ $_ := set $fixed "webhook" (dict "enabled" true "namespace" .Release.Namespace) }}{{ end -}}
{{- with .Values.spiderpoolConf }}{{ $_ := set $fixed "spiderpoolConf" (printf "/etc/nephila-spiderpool/%s" .) }}{{ end -}}
{{- toYaml (merge $fixed (deepCopy .Values.leader.settings)) -}}
{{- end }}

{{/* What eBPF needs, is there only where it is used. */}}
{{- define "nephila.ebpf" -}}
{{- $settings := .Values.agent.settings -}}
{{- if and (or $settings.parent $settings.parents) (eq (($settings.probe | default dict).watch | default "ebpf") "ebpf") }}true{{ end -}}
{{- end }}
