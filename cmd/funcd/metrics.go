package main

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/funcd/funcd/api"
)

// metricsHandler serves GET /metrics: the server's process, and where calls stand. It asks nobody but memory. totals is not valid until read.
func metricsHandler(totals func() (counts api.Status, read bool)) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		callsCollector{totals},
	)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	return mux
}

// callsCollector tells how many calls there are in each state.
type callsCollector struct {
	totals func() (api.Status, bool)
}

var callsMetric = prometheus.NewDesc("funcd_calls", "Calls that are waiting, are being executed, or have ended and whose answer is kept, "+
	"of all accounts on all servers.", []string{"state"}, nil)

func (c callsCollector) Describe(descs chan<- *prometheus.Desc) { descs <- callsMetric }

func (c callsCollector) Collect(metrics chan<- prometheus.Metric) {
	counts, read := c.totals()
	if !read {
		return
	}
	for state, n := range map[api.State]int{
		api.Pending: counts.Pending, api.Running: counts.Running, api.Finished: counts.Finished, api.Failed: counts.Failed,
	} {
		metrics <- prometheus.MustNewConstMetric(callsMetric, prometheus.GaugeValue, float64(n), string(state))
	}
}
