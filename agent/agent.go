// Package agent profiles a node: it joins the process table, the sampler and the sender into one program that
// runs until it is told to stop. [Record] is the same without a server: it profiles for a while and
// returns what it saw.
package agent
