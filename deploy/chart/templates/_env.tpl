{{/* The node's settings: each ATOLL__SECTION__KEY is a key of its configuration. */}}
{{- define "atoll.env" -}}
{{- $v := .Values -}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_IP
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
- name: HOST_IP
  valueFrom: {fieldRef: {fieldPath: status.hostIP}}
{{- if eq $v.zone.source "label" }}
# Empty where Kubernetes does not set the label.
- name: POD_ZONE
  valueFrom: {fieldRef: {fieldPath: "metadata.labels['topology.kubernetes.io/zone']"}}
{{- end }}
- name: ATOLL__NODE__NAME
  value: $(POD_NAME)
- name: ATOLL__NODE__REGION
  value: {{ $v.region | quote }}
{{- if eq $v.zone.source "label" }}
- name: ATOLL__NODE__ZONE
  value: zone-$(POD_ZONE)
{{- else if eq $v.zone.source "value" }}
- name: ATOLL__NODE__ZONE
  value: {{ $v.zone.value | quote }}
{{- end }}
- name: ATOLL__NODE__DATA
  value: /var/lib/atoll
{{- include "atoll.env.network" . }}
{{- include "atoll.env.cluster" . }}
{{- include "atoll.env.discovery" . }}
{{- range $key, $value := $v.config }}
- name: ATOLL__{{ $key | replace "." "__" | upper }}
  value: {{ kindIs "float64" $value | ternary (printf "%v" (int64 $value)) $value | quote }}
{{- end }}
{{- end }}

{{- define "atoll.env.network" -}}
{{- $v := .Values }}
- name: ATOLL__HTTP__LISTEN
{{- if $v.http.anonymous }}
  value: {{ $v.network.ipv6 | ternary "[::]:7401" "0.0.0.0:7401" | quote }}
- name: ATOLL__HTTP__ANONYMOUS
  value: "true"
{{- else }}
  value: "127.0.0.1:7401"
{{- end }}
- name: ATOLL__REPLICATION__LISTEN
  value: {{ $v.network.ipv6 | ternary "[::]:7401" "0.0.0.0:7401" | quote }}
- name: ATOLL__REPLICATION__ADVERTISE
  value: {{ default ($v.network.ipv6 | ternary "[$(POD_IP)]:7401" "$(POD_IP):7401") $v.replication.advertise | quote }}
{{- with $v.replication.seeds }}
- name: ATOLL__REPLICATION__SEEDS
  value: {{ join "," . | quote }}
{{- end }}
{{- if eq $v.certificates.source "csi" }}
- name: ATOLL__REPLICATION__CERTIFICATES
  value: /certificates
{{- else }}
- name: ATOLL__REPLICATION__AUTHORITY
  value: /authority
{{- end }}
{{- end }}

{{- define "atoll.env.cluster" -}}
{{- $c := .Values.cluster }}
- name: ATOLL__CLUSTER__REPLICAS
  value: {{ int64 $c.replicas | quote }}
- name: ATOLL__CLUSTER__SLOTS
  value: {{ int64 $c.slots | quote }}
- name: ATOLL__CLUSTER__REPLACE_AFTER_S
  value: {{ include "atoll.replaceAfter" . | quote }}
- name: ATOLL__CLUSTER__FORGET_AFTER_S
  value: {{ int64 $c.forgetAfterSeconds | quote }}
# What is on an ephemeral disk is handed off for good; what is on a volume comes back.
- name: ATOLL__CLUSTER__LEAVE_ON_STOP
  value: {{ not .Values.persistence.enabled | quote }}
- name: ATOLL__CLUSTER__DRAIN_S
  value: {{ int64 $c.drainSeconds | quote }}
- name: ATOLL__CLUSTER__MOVES
  value: {{ int64 $c.moves | quote }}
{{- end }}

{{- define "atoll.env.discovery" -}}
{{- $d := .Values.discovery }}
- name: ATOLL__DISCOVERY__METHOD
  value: {{ $d.method }}
- name: ATOLL__DISCOVERY__PORT
  value: "7401"
- name: ATOLL__DISCOVERY__INTERVAL_S
  value: {{ int64 $d.intervalSeconds | quote }}
{{- if eq $d.method "kubernetes" }}
- name: ATOLL__DISCOVERY__KUBERNETES_SELECTOR
  value: {{ include "atoll.selector" . | replace ": " "=" | replace "\n" "," | quote }}
- name: ATOLL__DISCOVERY__KUBERNETES_CONFIG_MAP
  value: {{ include "atoll.records" . }}
{{- else if eq $d.method "etcd" }}
- name: ATOLL__DISCOVERY__ETCD_ENDPOINTS
  value: {{ join "," $d.etcd.endpoints | quote }}
- name: ATOLL__DISCOVERY__ETCD_PREFIX
  value: {{ $d.etcd.prefix | quote }}
{{- else }}
- name: ATOLL__DISCOVERY__DNS_NAME
  value: {{ printf "%s.%s.svc.%s" (include "atoll.headless" .) .Release.Namespace $d.clusterDomain }}
- name: ATOLL__CLUSTER__FOUNDER
  value: {{ .Values.cluster.founder | default (printf "%s-0" (include "atoll.fullname" .)) }}
{{- end }}
{{- end }}
