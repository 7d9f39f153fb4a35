{{- define "atoll.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* At most 40, so that names of pods and their labels stay below 63. */}}
{{- define "atoll.fullname" -}}
{{- $name := include "atoll.name" . -}}
{{- $full := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) -}}
{{- default $full .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "atoll.headless" -}}{{ include "atoll.fullname" . }}-nodes{{- end }}

{{- define "atoll.labels" -}}
{{ include "atoll.release" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "atoll.release" -}}
app.kubernetes.io/name: {{ include "atoll.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* The pods that are nodes, and no others. */}}
{{- define "atoll.selector" -}}
{{ include "atoll.release" . }}
app.kubernetes.io/component: node
{{- end }}

{{- define "atoll.account" -}}
{{- if .Values.serviceAccount.create -}}
{{ default (include "atoll.fullname" .) .Values.serviceAccount.name }}
{{- else -}}
{{ default "default" .Values.serviceAccount.name }}
{{- end -}}
{{- end }}

{{- define "atoll.secret" -}}
{{ default (printf "%s-authority" (include "atoll.fullname" .)) .Values.certificates.secret }}
{{- end }}

{{- define "atoll.issuer" -}}
{{- $issuer := .Values.certificates.issuer -}}
{{ $issuer.create | ternary (include "atoll.fullname" .) $issuer.name }}
{{- end }}

{{/* Where it is recorded that the region was formed. */}}
{{- define "atoll.records" -}}{{ include "atoll.fullname" . }}-region{{- end }}
{{/* The node appends its region to the name that it is given. */}}
{{- define "atoll.record" -}}{{ include "atoll.records" . }}-{{ .Values.region }}{{- end }}

{{- define "atoll.workload" -}}{{ .Values.persistence.enabled | ternary "StatefulSet" "Deployment" }}{{- end }}

{{/* What a schedule has set stays when the release is upgraded. */}}
{{- define "atoll.size" -}}
{{- $live := dict -}}
{{- if .Values.schedules -}}
{{- $live = lookup "apps/v1" (include "atoll.workload" .) .Release.Namespace (include "atoll.fullname" .) -}}
{{- end -}}
{{ dig "spec" "replicas" .Values.replicaCount $live }}
{{- end }}

{{- define "atoll.replaceAfter" -}}
{{ .Values.cluster.replaceAfterSeconds | default (.Values.persistence.enabled | ternary 300 30) | int64 }}
{{- end }}

{{/* Whether pods talk to the Kubernetes API. */}}
{{- define "atoll.usesApi" -}}
{{- if or (eq .Values.discovery.method "kubernetes") (eq .Values.zone.source "node") }}true{{ end -}}
{{- end }}

{{- define "atoll.grace" -}}
{{ add .Values.shutdown.delaySeconds .Values.cluster.drainSeconds .Values.shutdown.spareSeconds }}
{{- end }}

{{/* What the schema cannot say. */}}
{{- define "atoll.check" -}}
{{- $v := .Values -}}
{{- if and (eq $v.discovery.method "dns") (not $v.persistence.enabled) -}}
{{- fail "discovery.method=dns needs persistence.enabled=true: pod 0 forms the region, and pods of a Deployment have no numbers; or use kubernetes or etcd" -}}
{{- end -}}
{{- if and (eq $v.discovery.method "etcd") (empty $v.discovery.etcd.endpoints) -}}
{{- fail "discovery.method=etcd needs discovery.etcd.endpoints" -}}
{{- end -}}
{{- if and (eq $v.certificates.source "csi") $v.persistence.enabled -}}
{{- fail "certificates.source=csi gives a pod a new key at each start, and so another identity than its volume's; use secret or issuer with persistence.enabled=true" -}}
{{- end -}}
{{- if and (ne $v.certificates.source "secret") (not (include "atoll.issuer" .)) -}}
{{- fail "certificates.source=issuer and csi need certificates.issuer.name, or, for issuer, certificates.issuer.create=true" -}}
{{- end -}}
{{- if and (eq $v.certificates.source "csi") $v.certificates.issuer.create -}}
{{- fail "certificates.source=csi needs an issuer that signs for others: give certificates.issuer.name, not create" -}}
{{- end -}}
{{- if and $v.monitoring.serviceMonitor.enabled (not $v.http.anonymous) -}}
{{- fail "monitoring.serviceMonitor needs http.anonymous=true: metrics are on loopback; have the container that authenticates pass them on, and monitor that" -}}
{{- end -}}
{{- if and (not $v.http.anonymous) (eq $v.service.targetPort "http") -}}
{{- fail "http.anonymous=false leaves HTTP on loopback, where service.targetPort=http does not reach: name the port of the container that authenticates (extraContainers), or set http.anonymous=true" -}}
{{- end -}}
{{- if and $v.autoscaling.enabled (lt (int $v.autoscaling.max) (int $v.autoscaling.min)) -}}
{{- fail "autoscaling.max is below autoscaling.min" -}}
{{- end -}}
{{- if and $v.autoscaling.enabled (eq (int $v.autoscaling.cpu) 0) (not $v.autoscaling.load) -}}
{{- fail "autoscaling.enabled needs autoscaling.cpu or autoscaling.load" -}}
{{- end -}}
{{- end }}
