// Command gpx_perfuse is the back end of Grafana's data source for Perfuse. Grafana starts it and talks to it over its
// plugin protocol; package datasource answers.
package main

import (
	"fmt"
	"os"

	sdk "github.com/grafana/grafana-plugin-sdk-go/backend/datasource"
	"github.com/perfuse/perfuse/web/grafana/datasource"
)

func main() {
	if err := sdk.Manage(datasource.PluginID, datasource.NewInstance, sdk.ManageOpts{}); err != nil {
		fmt.Fprintln(os.Stderr, "gpx_perfuse:", err)
		os.Exit(1)
	}
}
