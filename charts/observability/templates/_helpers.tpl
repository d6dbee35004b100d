{{- /* The programs of this chart: each is a key of the values and a file of files/. */ -}}
{{- define "observability.programs" -}}
collector jaeger prometheus
{{- end }}

{{- /* Labels by which a Service finds its pod; call with (dict "program" NAME "root" $). */ -}}
{{- define "observability.selector" -}}
app.kubernetes.io/name: {{ .program }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end }}

{{- define "observability.labels" -}}
{{ include "observability.selector" . }}
app.kubernetes.io/part-of: {{ .root.Chart.Name }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}
