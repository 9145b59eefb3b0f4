// Package proto is the wire: our own .proto files with their generated code below perfuse/, and the peers'
// protocols that we speak. Agent and server never import each other; they meet here.
package proto
