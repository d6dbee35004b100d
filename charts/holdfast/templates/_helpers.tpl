{{/* Names, labels, images and settings; nothing else. Each takes a list that begins with the root context. */}}

{{/* (list $ "orders-worker") → holdfast-orders-worker */}}
{{- define "holdfast.name" -}}
{{- $name := printf "%s-%s" (index . 0).Release.Name (index . 1) -}}
{{- if gt (len $name) 63 -}}
{{- fail (printf "%s is longer than the 63 characters of a name: choose a shorter name for the release" $name) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{/* (list $ "orders" "worker"): what a selector goes by; it must never change while a release is installed. */}}
{{- define "holdfast.selector" -}}
app.kubernetes.io/name: {{ index . 1 }}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 2 }}
{{- end -}}

{{/* (list $ "orders" "worker"): all labels of an object */}}
{{- define "holdfast.labels" -}}
{{ include "holdfast.selector" . }}
app.kubernetes.io/part-of: holdfast
app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
app.kubernetes.io/version: {{ (index . 0).Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" (index . 0).Chart.Name (index . 0).Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* (list $ "orders-worker" "orders" "worker"): the metadata of an object: its name, and whose it is. */}}
{{- define "holdfast.metadata" -}}
name: {{ include "holdfast.name" (list (index . 0) (index . 1)) }}
namespace: {{ (index . 0).Release.Namespace }}
labels:
  {{- include "holdfast.labels" (list (index . 0) (index . 2) (index . 3)) | nindent 2 }}
{{- end -}}

{{/* (list $ "holdfast/orders") → registry.example.com/holdfast/orders:0.1.0. One that has a tag or digest stays. */}}
{{- define "holdfast.image" -}}
{{- $image := (index . 0).Values.image -}}
{{- $name := index . 1 -}}
{{- if regexMatch "[:@][^/]+$" $name -}}
{{- $name -}}
{{- else -}}
{{- with $image.registry }}{{ . }}/{{ end }}{{ $name }}:{{ $image.tag | default (index . 0).Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* (list $) → Always, where images come from a registry and a tag may have been moved; IfNotPresent, where they do not. */}}
{{- define "holdfast.pullPolicy" -}}
{{- $image := (index . 0).Values.image -}}
{{- $image.pullPolicy | default (ternary "Always" "IfNotPresent" (ne $image.registry "")) -}}
{{- end -}}

{{/*
(list $ "orders" "database.port" 5432) → what its processes will find: the variable, the service's file, the common one, or
else the code's default. Lists are JSON.
*/}}
{{- define "holdfast.setting" -}}
{{- $root := index . 0 -}}
{{- $service := index $root.Values.services (index . 1) -}}
{{- $path := index . 2 -}}
{{- $value := index . 3 -}}
{{- range $config := list $root.Values.config $service.config -}}
{{- $found := $config -}}
{{- range splitList "." $path -}}
{{- $found = kindIs "map" $found | ternary $found dict | dig . nil -}}
{{- end -}}
{{- if not (kindIs "invalid" $found) -}}
{{- $value = $found -}}
{{- end -}}
{{- end -}}
{{- with get $service.env (printf "HOLDFAST_%s" ($path | replace "." "__" | upper)) -}}
{{- $value = . -}}
{{- end -}}
{{- if not (kindIs "string" $value) -}}
{{- toJson $value -}}
{{- else if contains "{{" $value -}}
{{- tpl $value $root -}}
{{- else -}}
{{- $value -}}
{{- end -}}
{{- end -}}
