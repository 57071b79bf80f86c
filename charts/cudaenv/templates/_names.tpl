{{- define "cudaenv.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "cudaenv.nodeAgent" -}}{{ include "cudaenv.fullname" . }}-node-agent{{- end -}}
{{- define "cudaenv.operator" -}}{{ include "cudaenv.fullname" . }}-operator{{- end -}}

{{/* Labels that never change in the life of a release: dict "root" $ "component" NAME */}}
{{- define "cudaenv.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "cudaenv.labels" -}}
{{ include "cudaenv.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* dict "root" $ "image" VALUES */}}
{{- define "cudaenv.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/*
What cleans a node: the image and its mounts, without arguments. Both folders have paths of their own here: a mount below one that is
shared with the node would be made on the node as well, and stay there.
*/}}
{{- define "cudaenv.clean" -}}
image: {{ include "cudaenv.image" (dict "root" . "image" .Values.nodeAgent.image) }}
imagePullPolicy: {{ .Values.nodeAgent.image.pullPolicy }}
terminationMessagePolicy: FallbackToLogsOnError
securityContext: {privileged: true, readOnlyRootFilesystem: true}
volumeMounts:
- {name: above, mountPath: /node/above, mountPropagation: Bidirectional}
- {name: kubelet, mountPath: /node/kubelet, mountPropagation: HostToContainer}
{{- end -}}

{{- define "cudaenv.criticalPods" -}}
hard: {pods: {{ .Values.criticalPodsQuota.pods | quote }}}
scopeSelector:
  matchExpressions:
  - {scopeName: PriorityClass, operator: In, values: [system-node-critical, system-cluster-critical]}
{{- end -}}
