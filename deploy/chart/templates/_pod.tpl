{{/* The pod of a node, the same for both kinds of workload but for the volume named data. */}}
{{- define "atoll.pod" -}}
{{- $v := .Values -}}
metadata:
  labels:
    {{- include "atoll.selector" . | nindent 4 }}
    {{- with $v.podLabels }}{{ toYaml . | nindent 4 }}{{ end }}
  annotations:
    kubectl.kubernetes.io/default-container: atoll
    {{- with $v.podAnnotations }}{{ toYaml . | nindent 4 }}{{ end }}
spec:
  serviceAccountName: {{ include "atoll.account" . }}
  automountServiceAccountToken: {{ include "atoll.usesApi" . | eq "true" }}
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ include "atoll.grace" . }}
  {{- with $v.image.pullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $v.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  securityContext: {{- toYaml $v.podSecurityContext | nindent 4 }}
  topologySpreadConstraints: {{- include "atoll.spread" . | trim | nindent 4 }}
  {{- with $v.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $v.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $v.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if eq $v.zone.source "node" }}
  initContainers: {{- include "atoll.zone" . | nindent 4 }}
  {{- end }}
  containers:
    {{- include "atoll.container" . | nindent 4 }}
    {{- with $v.extraContainers }}{{ toYaml . | nindent 4 }}{{ end }}
  volumes: {{- include "atoll.volumes" . | trim | nindent 4 }}
{{- end }}

{{- define "atoll.container" -}}
{{- $v := .Values -}}
- name: atoll
  image: "{{ $v.image.repository }}:{{ default .Chart.AppVersion $v.image.tag }}"
  imagePullPolicy: {{ $v.image.pullPolicy }}
  {{- if eq $v.zone.source "node" }}
  args: [serve, --config, /zone/zone.toml]
  {{- end }}
  env: {{- include "atoll.env" . | nindent 4 }}
  ports:
    - {name: http, containerPort: 7401, protocol: TCP}
    - {name: quic, containerPort: 7401, protocol: UDP}
  # The store is read before anything answers.
  startupProbe:
    {{- include "atoll.probe" (dict "anonymous" $v.http.anonymous "path" "/livez" "flag" "--live") | nindent 4 }}
    periodSeconds: 5
    timeoutSeconds: 3
    failureThreshold: {{ div (add $v.probes.startupSeconds 4) 5 }}
  livenessProbe:
    {{- include "atoll.probe" (dict "anonymous" $v.http.anonymous "path" "/livez" "flag" "--live") | nindent 4 }}
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: 3
  # Ready: recovered, joined, and its replicas have caught up.
  readinessProbe:
    {{- include "atoll.probe" (dict "anonymous" $v.http.anonymous "path" "/readyz" "flag" "") | nindent 4 }}
    periodSeconds: 2
    timeoutSeconds: 3
    failureThreshold: 2
  lifecycle:
    preStop:
      sleep: {seconds: {{ $v.shutdown.delaySeconds }}}
  resources: {{- toYaml $v.resources | nindent 4 }}
  securityContext: {{- toYaml $v.securityContext | nindent 4 }}
  volumeMounts:
    - {name: data, mountPath: /var/lib/atoll}
    {{- if eq $v.certificates.source "csi" }}
    - {name: certificates, mountPath: /certificates, readOnly: true}
    {{- else }}
    - {name: authority, mountPath: /authority, readOnly: true}
    {{- end }}
    {{- if eq $v.zone.source "node" }}
    - {name: zone, mountPath: /zone, readOnly: true}
    {{- end }}
    {{- with $v.extraVolumeMounts }}{{ toYaml . | nindent 4 }}{{ end }}
{{- end }}

{{/* On loopback only the container itself can ask. */}}
{{- define "atoll.probe" -}}
{{- if .anonymous -}}
httpGet: {path: {{ .path }}, port: http}
{{- else -}}
exec: {command: [/usr/local/bin/atoll, health{{ with .flag }}, {{ . }}{{ end }}]}
{{- end -}}
{{- end }}

{{- define "atoll.spread" -}}
{{- $root := . -}}
{{- range $key, $when := dict "topology.kubernetes.io/zone" .Values.topologySpread.zone "kubernetes.io/hostname" .Values.topologySpread.node }}
- maxSkew: 1
  topologyKey: {{ $key }}
  whenUnsatisfiable: {{ $when }}
  labelSelector:
    matchLabels: {{- include "atoll.selector" $root | nindent 6 }}
  {{- if not $root.Values.persistence.enabled }}
  # Old pods of an update do not count: they go.
  matchLabelKeys: [pod-template-hash]
  {{- end }}
{{- end }}
{{- end }}

{{/* Asks for the zone of the machine, which a pod is not told otherwise before Kubernetes 1.35. */}}
{{- define "atoll.zone" -}}
- name: zone
  image: {{ .Values.kubectl.image }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command:
    - /bin/sh
    - -ec
    - |
      zone=$(kubectl get node "$NODE_NAME" -o 'jsonpath={.metadata.labels.topology\.kubernetes\.io/zone}')
      printf '[node]\nzone = "zone-%s"\n' "$zone" > /zone/zone.toml
  env:
    - name: NODE_NAME
      valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
  resources: {{- toYaml .Values.schedule.resources | nindent 4 }}
  securityContext: {{- toYaml .Values.securityContext | nindent 4 }}
  volumeMounts:
    - {name: zone, mountPath: /zone}
{{- end }}

{{- define "atoll.volumes" -}}
{{- $v := .Values -}}
{{- if not $v.persistence.enabled -}}
- name: data
  emptyDir: {{- dict "sizeLimit" $v.ephemeral.sizeLimit "medium" $v.ephemeral.medium | toYaml | nindent 4 }}
{{- end }}
{{- if eq $v.certificates.source "csi" }}
- name: certificates
  csi:
    driver: csi.cert-manager.io
    readOnly: true
    volumeAttributes:
      csi.cert-manager.io/issuer-name: {{ include "atoll.issuer" . }}
      csi.cert-manager.io/issuer-kind: {{ $v.certificates.issuer.kind }}
      csi.cert-manager.io/issuer-group: {{ $v.certificates.issuer.group }}
      csi.cert-manager.io/dns-names: atoll
      csi.cert-manager.io/uri-sans: "atoll://{{ $v.cluster.name }}/${POD_NAME}"
      csi.cert-manager.io/key-usages: digital signature,server auth,client auth
      csi.cert-manager.io/key-encoding: PKCS8
      # A node's identity is its key.
      csi.cert-manager.io/reuse-private-key: "true"
      csi.cert-manager.io/duration: {{ $v.certificates.duration | quote }}
      csi.cert-manager.io/certificate-file: node.pem
      csi.cert-manager.io/privatekey-file: node.key
      csi.cert-manager.io/ca-file: ca.pem
      csi.cert-manager.io/fs-group: {{ $v.podSecurityContext.fsGroup | quote }}
{{- else }}
- name: authority
  secret:
    secretName: {{ include "atoll.secret" . }}
    defaultMode: 0440
    items:
      {{- if eq $v.certificates.source "issuer" }}
      - {key: tls.crt, path: ca.pem}
      - {key: tls.key, path: ca.key}
      {{- else }}
      - {key: ca.pem, path: ca.pem}
      - {key: ca.key, path: ca.key}
      {{- end }}
{{- end }}
{{- if eq $v.zone.source "node" }}
- name: zone
  emptyDir: {sizeLimit: 1Mi}
{{- end }}
{{- with $v.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}
