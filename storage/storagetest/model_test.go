package storagetest

import (
	"testing"

	"github.com/perfuse/perfuse/storage"
)

func TestModel(t *testing.T) {
	TestAnswers(t, func(testing.TB, string) storage.Store { return &Model{} })
}
