{{/* Labels, and what programs.yaml means. Each takes a list that begins with the root context. */}}

{{/* (list $ "jaeger"): what a selector goes by; it must never change while a release is installed. */}}
{{- define "observability.selector" -}}
app.kubernetes.io/name: {{ index . 1 }}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
{{- end -}}

{{/* (list $ "jaeger"): all labels of an object */}}
{{- define "observability.labels" -}}
{{ include "observability.selector" . }}
app.kubernetes.io/part-of: observability
app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
helm.sh/chart: {{ printf "%s-%s" (index . 0).Chart.Name (index . 0).Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* (list $): every program, its templates filled in */}}
{{- define "observability.programs" -}}
{{ tpl ((index . 0).Files.Get "files/programs.yaml") (index . 0) }}
{{- end -}}

{{/* (list $ "chart/scrape.yaml"): a file's text; what is not in chart/ has braces of its own. */}}
{{- define "observability.file" -}}
{{- $text := (index . 0).Files.Get (printf "files/%s" (index . 1)) -}}
{{- if hasPrefix "chart/" (index . 1) }}{{ tpl $text (index . 0) }}{{ else }}{{ $text }}{{ end -}}
{{- end -}}

{{/* (list $ $program.files): the data of a ConfigMap, by the files' last names */}}
{{- define "observability.data" -}}
{{- range $path, $source := index . 1 }}
{{ base $path }}: |
  {{- include "observability.file" (list (index $ 0) $source) | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "observability.container-security" -}}
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
readOnlyRootFilesystem: true
{{- end -}}

{{- define "observability.dns" -}}
- ports:  # names
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
{{- end -}}
